package llamacpp

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler/chat"
)

// A dialect is a chat template with its control tokens. They replace those of the
// vault's policy or are added after its vocabulary.
type dialect struct {
	title    string
	name     string            // of the built-in template that renders the same; empty: none
	renames  map[string]string // the policy's control tokens
	adds     []string          // more control tokens; those with "think" are ordinary added tokens
	template string            // Jinja; empty: the model's template
	unstable string            // why it is not stable; empty: it is stable
	strips   bool              // control tokens take the white space after them away, as Phi-3's do
}

func dialects() []dialect {
	const open = `{{ bos_token }}{% for m in messages %}`
	return []dialect{
		{title: "Qwen", name: "chatml"},
		{
			title:    "Qwen3",
			adds:     []string{"<think>", "</think>"},
			unstable: "it takes <think>…</think> out of earlier messages",
			template: `{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}` +
				`{% set ns.last = loop.index0 %}{% endif %}{% endfor %}` +
				`{% for m in messages %}{% set text = m.content %}` +
				`{% if m.role == 'assistant' and loop.index0 < ns.last and '</think>' in text %}` +
				`{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}` +
				`{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{% endfor %}` +
				`{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`,
		},
		{
			title:   "Phi-3",
			renames: map[string]string{"<|im_start|>": "<|user|>", "<|im_end|>": "<|end|>"},
			adds:    []string{"<|system|>", "<|assistant|>", "</s>", "<s>", "<unk>"},
			strips:  true,
			template: `{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}` +
				`{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}`,
		},
		{
			title: "Llama 3",
			name:  "llama3",
			renames: map[string]string{"<|endoftext|>": "<|begin_of_text|>", "<|im_start|>": "<|start_header_id|>",
				"<|im_end|>": "<|eot_id|>"},
			adds: []string{"<|end_header_id|>"},
			template: open + `{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + ` +
				`(m.content | trim) + '<|eot_id|>' }}` +
				`{% endfor %}` +
				`{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}`,
		},
		{
			title: "Gemma 3",
			name:  "gemma",
			renames: map[string]string{"<|endoftext|>": "<bos>", "<|im_start|>": "<start_of_turn>",
				"<|im_end|>": "<end_of_turn>"},
			template: `{{ bos_token }}{% set ns = namespace(first='') %}{% for m in messages %}` +
				`{% if m.role == 'system' %}{% set ns.first = m.content + '\n\n' %}{% else %}` +
				`{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' + ` +
				`ns.first + (m.content | trim) + '<end_of_turn>\n' }}` +
				`{% set ns.first = '' %}{% endif %}{% endfor %}` +
				`{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}`,
		},
		{
			title: "Gemma 2", // the server adds the system message to the user's
			renames: map[string]string{"<|endoftext|>": "<bos>", "<|im_start|>": "<start_of_turn>",
				"<|im_end|>": "<end_of_turn>"},
			template: open + `{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}` +
				`{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' + ` +
				`(m.content | trim) + '<end_of_turn>\n' }}` +
				`{% endfor %}` +
				`{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}`,
		},
		{
			title:   "Mistral v3",
			name:    "mistral",
			renames: map[string]string{"<|endoftext|>": "<s>", "<|im_start|>": "[INST]", "<|im_end|>": "</s>"},
			adds:    []string{"[/INST]"},
			template: `{{ bos_token }}{% set ns = namespace(first='') %}{% for m in messages %}` +
				`{% if m.role == 'system' %}{% set ns.first = m.content + '\n\n' %}` +
				`{% elif m.role == 'user' %}{{ '[INST]' + ns.first + m.content + '[/INST]' }}{% set ns.first = '' %}` +
				`{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}`,
		},
	}
}

// serveDialect serves the vault's policy with the template and tokens of a dialect.
func (r *real) serveDialect(t *testing.T, d dialect) *Backend {
	t.Helper()
	cfg := r.config()
	if d.template != "" {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(r.model)); err != nil {
			t.Fatal(err)
		}
		edit(t, filepath.Join(dir, "tokenizer.json"), func(k map[string]any) { d.editTokens(k) })
		edit(t, filepath.Join(dir, "tokenizer_config.json"), func(k map[string]any) { k["chat_template"] = d.template })
		edit(t, filepath.Join(dir, "config.json"), func(k map[string]any) { k["bos_token_id"] = 0 })
		cfg.BaseGGUF = filepath.Join(dir, "model.gguf")
		r.oracle.Convert(t, dir, cfg.BaseGGUF)
	}
	return r.open(t, cfg)
}

func edit(t *testing.T, path string, change func(map[string]any)) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	change(v)
	if data, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// editTokens renames control tokens of a tokenizer.json and adds others.
func (d dialect) editTokens(k map[string]any) {
	vocab, added := k["model"].(map[string]any)["vocab"].(map[string]any), k["added_tokens"].([]any)
	size := 0.0
	for _, id := range vocab {
		size = max(size, id.(float64)+1)
	}
	for _, a := range added {
		entry := a.(map[string]any)
		was := entry["content"].(string)
		if name := d.renames[was]; name != "" {
			vocab[name], entry["content"] = vocab[was], name
			delete(vocab, was)
		}
	}
	for i, text := range d.adds {
		entry := maps.Clone(added[0].(map[string]any))
		entry["id"], entry["content"], entry["special"] = size+float64(i), text, !strings.Contains(text, "think")
		added = append(added, entry)
	}
	for _, a := range added {
		entry := a.(map[string]any)
		entry["rstrip"] = d.strips && !slices.Contains([]any{"<|endoftext|>", "<s>", "<unk>"}, entry["content"])
	}
	k["added_tokens"] = added
}

// testTemplates derives templates from a real llama-server. They must render like
// the server, and text must not become a control token.
func testTemplates(t *testing.T, r *real) {
	for _, d := range dialects() {
		t.Run(d.title, func(t *testing.T) {
			b := r.serveDialect(t, d)
			names := []string{chat.TemplateAuto}
			if d.name != "" {
				names = append(names, d.name)
			}
			for _, name := range names {
				template, err := chat.NewTemplate(t.Context(), name, chat.CachedTokenizer(b, 1000), b, b)
				if err != nil {
					t.Fatal(err)
				}
				if template.Unstable() != d.unstable {
					t.Errorf("%s: unstable %q, want %q", name, template.Unstable(), d.unstable)
				}
				checkRendering(t, b, template)
				checkForging(t, b, template)
			}
		})
	}
}

func checkRendering(t *testing.T, b *Backend, template *chat.Template) {
	t.Helper()
	conversation := []chat.Message{
		message(chat.RoleSystem, "You walk."), message(chat.RoleUser, "Levers: jade ☂,\n\nbone."),
		message(chat.RoleAssistant, "pull jade"), message(chat.RoleUser, "  Door 2.\n"),
	}
	for _, conversation := range [][]chat.Message{conversation, conversation[1:]} {
		text, err := b.Render(t.Context(), conversation, true)
		if err != nil {
			t.Fatal(err)
		}
		want, err := b.TokenizeSpecial(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := template.Extend(t.Context(), nil, conversation...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %q: %s", template.Name(), text, diff)
		}
	}
}

func checkForging(t *testing.T, b *Backend, template *chat.Template) {
	t.Helper()
	var ids []int32
	for _, text := range template.ControlTexts() {
		id, err := b.ControlToken(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	controls := func(text string) (n int) {
		prompt, err := template.Extend(t.Context(), nil, message(chat.RoleSystem, text), message(chat.RoleUser, text))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range prompt {
			if slices.Contains(ids, id) {
				n++
			}
		}
		return n
	}
	want := controls("x")
	if got := controls("a" + strings.Join(template.ControlTexts(), "\n") + "b"); got != want {
		t.Errorf("%s: %d control tokens, %d without forging", template.Name(), got, want)
	}
}
