package sampler_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// A model has a chat template and the control tokens that it needs besides
// ChatML's.
type model struct {
	name     string // of the template that renders the same
	end      string // of what the policy writes
	controls []string
	render   rendering
}

// A rendering is a model's chat template as a Go function.
type rendering func(messages []sampler.Message, generation bool) (string, error)

func (f rendering) Render(_ context.Context, messages []sampler.Message, generation bool) (string, error) {
	return f(messages, generation)
}

func chatML(messages []sampler.Message, generation bool) (string, error) {
	var b strings.Builder
	for _, m := range messages {
		b.WriteString("<|im_start|>" + m.Role + "\n" + m.Text() + "<|im_end|>\n")
	}
	if generation {
		b.WriteString("<|im_start|>assistant\n")
	}
	return b.String(), nil
}

// qwen25 speaks up where there is no system message.
func qwen25(messages []sampler.Message, generation bool) (string, error) {
	if messages[0].Role != sampler.RoleSystem {
		system := sampler.Message{Role: sampler.RoleSystem, Spans: []sampler.Span{{Text: "You are Qwen."}}}
		messages = append([]sampler.Message{system}, messages...)
	}
	return chatML(messages, generation)
}

// qwen3 takes thoughts out of what stands before the last question.
func qwen3(messages []sampler.Message, generation bool) (string, error) {
	last := 0
	for i, m := range messages {
		if m.Role == sampler.RoleUser {
			last = i
		}
	}
	shown := slices.Clone(messages)
	for i, m := range shown[:last] {
		if _, answer, ok := strings.Cut(m.Text(), "</think>"); ok && m.Role == sampler.RoleAssistant {
			shown[i].Spans = []sampler.Span{{Text: strings.TrimLeft(answer, "\n")}}
		}
	}
	return chatML(shown, generation)
}

func llama3(messages []sampler.Message, generation bool) (string, error) {
	b := "<|begin_of_text|>"
	for _, m := range messages {
		b += "<|start_header_id|>" + m.Role + "<|end_header_id|>\n\n" + strings.TrimSpace(m.Text()) + "<|eot_id|>"
	}
	if generation {
		b += "<|start_header_id|>assistant<|end_header_id|>\n\n"
	}
	return b, nil
}

// llama31 writes dates, with and without a system message.
func llama31(messages []sampler.Message, generation bool) (string, error) {
	text := ""
	if messages[0].Role == sampler.RoleSystem {
		text, messages = strings.TrimSpace(messages[0].Text()), messages[1:]
	}
	rest, err := llama3(messages, generation)
	return "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" +
		text + "<|eot_id|>" + strings.TrimPrefix(rest, "<|begin_of_text|>"), err
}

func gemma3(messages []sampler.Message, generation bool) (string, error) {
	b, first := "<bos>", ""
	for _, m := range messages {
		switch m.Role {
		case sampler.RoleSystem:
			first = m.Text() + "\n\n"
			continue
		case sampler.RoleAssistant:
			m.Role = "model"
		}
		b += "<start_of_turn>" + m.Role + "\n" + first + strings.TrimSpace(m.Text()) + "<end_of_turn>\n"
		first = ""
	}
	if generation {
		b += "<start_of_turn>model\n"
	}
	return b, nil
}

// gemma2 knows no system.
func gemma2(messages []sampler.Message, generation bool) (string, error) {
	if messages[0].Role == sampler.RoleSystem {
		return "", fmt.Errorf("%w: System role not supported", sampler.ErrRefused)
	}
	return gemma3(messages, generation)
}

// gemma2llama is what llama-server makes of Gemma 2's template: the system's
// text goes to the user, and what comes of it is trimmed as one.
func gemma2llama(messages []sampler.Message, generation bool) (string, error) {
	if messages[0].Role == sampler.RoleSystem {
		first := message(sampler.RoleUser, messages[0].Text()+"\n"+messages[1].Text())
		messages = append([]sampler.Message{first}, messages[2:]...)
	}
	return gemma3(messages, generation)
}

// mistral puts the system's text in front of the first user's.
func mistral(messages []sampler.Message, _ bool) (string, error) {
	b, first := "<s>", ""
	for _, m := range messages {
		switch m.Role {
		case sampler.RoleSystem:
			first = m.Text() + "\n\n"
		case sampler.RoleAssistant:
			b += m.Text() + "</s>"
		default:
			b, first = b+"[INST]"+first+m.Text()+"[/INST]", ""
		}
	}
	return b, nil
}

// mistralLast puts it in front of the last user's, as mistral-common does.
func mistralLast(messages []sampler.Message, generation bool) (string, error) {
	if messages[0].Role == sampler.RoleSystem {
		last := slices.Clone(messages[1:])
		m := &last[len(last)-1]
		m.Spans = []sampler.Span{{Text: messages[0].Text() + "\n\n" + m.Text()}}
		messages = last
	}
	return mistral(messages, generation)
}

func mistral7(messages []sampler.Message, generation bool) (string, error) {
	if messages[0].Role != sampler.RoleSystem {
		return mistral(messages, generation)
	}
	rest, err := mistral(messages[1:], generation)
	return "<s>[SYSTEM_PROMPT]" + messages[0].Text() + "[/SYSTEM_PROMPT]" + strings.TrimPrefix(rest, "<s>"), err
}

var (
	ofChatML   = model{"chatml", "<|im_end|>", nil, chatML}
	ofLlama3   = model{"llama3", "<|eot_id|>", []string{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, llama3}
	ofGemma    = model{"gemma", "<end_of_turn>", []string{"<bos>", "<start_of_turn>", "<end_of_turn>"}, gemma3}
	ofMistral  = model{"mistral", "</s>", []string{"<s>", "</s>", "[INST]", "[/INST]"}, mistral}
	ofMistral7 = model{"mistral", "</s>", []string{"<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"}, mistral7}
)

func families() []model { return []model{ofChatML, ofLlama3, ofGemma, ofMistral, ofMistral7} }

// tokenizer merges as BPE does, also what stands at the texts' ends.
func (f model) tokenizer(words ...string) *samplertest.Tokenizer {
	return samplertest.NewTokenizer(words...).WithControls(f.end, f.controls...)
}

func (f model) template(t fatal, name string) (*sampler.Template, *samplertest.Tokenizer) {
	t.Helper()
	k := f.tokenizer(append([]string{"\n\n", "\n\n\n", "\n\nI", "[/", "  "}, mergers...)...)
	got, err := sampler.NewTemplate(context.Background(), name, k, k, f.render)
	if err != nil {
		t.Fatalf("template %s of %s: %v", name, f.name, err)
	}
	return got, k
}
