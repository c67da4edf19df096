// Package chattest has the chat templates of well-known models as Go functions. Tests compare the templates of package
// chat with them. Start with [Models].
package chattest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/samplertest"
)

// A Model is a model's chat template and its control tokens.
type Model struct {
	Name     string   // of the template in package chat that renders the same
	End      string   // the control token that ends the policy's message
	Controls []string // control tokens besides ChatML's
	Render   Rendering
}

// A Rendering is a model's chat template as a Go function. It implements [chat.Renderer].
type Rendering func(messages []chat.Message, generation bool) (string, error)

// Render implements [chat.Renderer].
func (f Rendering) Render(_ context.Context, messages []chat.Message, generation bool) (string, error) {
	return f(messages, generation)
}

// RenderChatML renders ChatML.
func RenderChatML(messages []chat.Message, generation bool) (string, error) {
	var b strings.Builder
	for _, m := range messages {
		b.WriteString("<|im_start|>" + m.Role + "\n" + m.Text() + "<|im_end|>\n")
	}
	if generation {
		b.WriteString("<|im_start|>assistant\n")
	}
	return b.String(), nil
}

// RenderQwen25 renders ChatML with a default system message, as Qwen2.5 does.
func RenderQwen25(messages []chat.Message, generation bool) (string, error) {
	if messages[0].Role != chat.RoleSystem {
		system := chat.Message{Role: chat.RoleSystem, Spans: []chat.Span{{Text: "You are Qwen."}}}
		messages = append([]chat.Message{system}, messages...)
	}
	return RenderChatML(messages, generation)
}

// RenderQwen3 renders ChatML without the thoughts before the last user's message, as Qwen3 does.
func RenderQwen3(messages []chat.Message, generation bool) (string, error) {
	last := 0
	for i, m := range messages {
		if m.Role == chat.RoleUser {
			last = i
		}
	}
	shown := slices.Clone(messages)
	for i, m := range shown[:last] {
		if _, answer, ok := strings.Cut(m.Text(), "</think>"); ok && m.Role == chat.RoleAssistant {
			shown[i].Spans = []chat.Span{{Text: strings.TrimLeft(answer, "\n")}}
		}
	}
	return RenderChatML(shown, generation)
}

func llama3(messages []chat.Message, generation bool) (string, error) {
	b := "<|begin_of_text|>"
	for _, m := range messages {
		b += "<|start_header_id|>" + m.Role + "<|end_header_id|>\n\n" + strings.TrimSpace(m.Text()) + "<|eot_id|>"
	}
	if generation {
		b += "<|start_header_id|>assistant<|end_header_id|>\n\n"
	}
	return b, nil
}

// RenderLlama31 renders Llama 3's template with dates in the system message, as Llama 3.1 does.
func RenderLlama31(messages []chat.Message, generation bool) (string, error) {
	text := ""
	if messages[0].Role == chat.RoleSystem {
		text, messages = strings.TrimSpace(messages[0].Text()), messages[1:]
	}
	rest, err := llama3(messages, generation)
	return "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n" +
		"Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" +
		text + "<|eot_id|>" + strings.TrimPrefix(rest, "<|begin_of_text|>"), err
}

func gemma3(messages []chat.Message, generation bool) (string, error) {
	b, first := "<bos>", ""
	for _, m := range messages {
		switch m.Role {
		case chat.RoleSystem:
			first = m.Text() + "\n\n"
			continue
		case chat.RoleAssistant:
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

// RenderGemma2 refuses a system message, as Gemma 2 does.
func RenderGemma2(messages []chat.Message, generation bool) (string, error) {
	if messages[0].Role == chat.RoleSystem {
		return "", fmt.Errorf("%w: System role not supported", chat.ErrRefused)
	}
	return gemma3(messages, generation)
}

// RenderGemma2Llama renders Gemma 2's template as llama-server does: it joins the system's and the first user's text
// and trims the result.
func RenderGemma2Llama(messages []chat.Message, generation bool) (string, error) {
	if messages[0].Role == chat.RoleSystem {
		first := chat.NewMessage(chat.RoleUser, messages[0].Text()+"\n"+messages[1].Text())
		messages = append([]chat.Message{first}, messages[2:]...)
	}
	return gemma3(messages, generation)
}

// mistral puts the system's text before the first user's text.
func mistral(messages []chat.Message, _ bool) (string, error) {
	b, first := "<s>", ""
	for _, m := range messages {
		switch m.Role {
		case chat.RoleSystem:
			first = m.Text() + "\n\n"
		case chat.RoleAssistant:
			b += m.Text() + "</s>"
		default:
			b, first = b+"[INST]"+first+m.Text()+"[/INST]", ""
		}
	}
	return b, nil
}

// RenderMistralLast puts the system's text before the last user's text, as mistral-common does.
func RenderMistralLast(messages []chat.Message, generation bool) (string, error) {
	if messages[0].Role == chat.RoleSystem {
		last := slices.Clone(messages[1:])
		m := &last[len(last)-1]
		m.Spans = []chat.Span{{Text: messages[0].Text() + "\n\n" + m.Text()}}
		messages = last
	}
	return mistral(messages, generation)
}

func mistral7(messages []chat.Message, generation bool) (string, error) {
	if messages[0].Role != chat.RoleSystem {
		return mistral(messages, generation)
	}
	rest, err := mistral(messages[1:], generation)
	return "<s>[SYSTEM_PROMPT]" + messages[0].Text() + "[/SYSTEM_PROMPT]" + strings.TrimPrefix(rest, "<s>"), err
}

// The models whose templates are stable.
var (
	ChatML = Model{"chatml", "<|im_end|>", nil, RenderChatML}
	Llama3 = Model{
		"llama3", "<|eot_id|>",
		[]string{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, llama3,
	}
	Gemma    = Model{"gemma", "<end_of_turn>", []string{"<bos>", "<start_of_turn>", "<end_of_turn>"}, gemma3}
	Mistral  = Model{"mistral", "</s>", []string{"<s>", "</s>", "[INST]", "[/INST]"}, mistral}
	Mistral7 = Model{
		"mistral", "</s>",
		[]string{"<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"}, mistral7,
	}
)

// Models returns all models whose templates are stable.
func Models() []Model { return []Model{ChatML, Llama3, Gemma, Mistral, Mistral7} }

// Tokenizer returns a tokenizer of words with the model's control tokens.
func (f Model) Tokenizer(words ...string) *samplertest.Tokenizer {
	return samplertest.NewTokenizer(words...).WithControls(f.End, f.Controls...)
}

// Template returns the template of that name, or the derived one, for the model, and its tokenizer.
func (f Model) Template(t fatal, name string) (*chat.Template, *samplertest.Tokenizer) {
	t.Helper()
	k := f.Tokenizer(append([]string{"\n\n", "\n\n\n", "\n\nI", "[/", "  "}, Mergers...)...)
	got, err := chat.NewTemplate(context.Background(), name, k, k, f.Render)
	if err != nil {
		t.Fatalf("template %s of %s: %v", name, f.Name, err)
	}
	return got, k
}

// fatal is implemented by *testing.T and *rapid.T.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Mergers are words of a tokenizer that merge the end of one part of a turn with the beginning of the next, as BPE
// does.
var Mergers = []string{
	"\nTips:", "Tips:\n", ":\n- ", "\n- ", ".\n", ".\nLevers", "user\n", "assistant\n", "pull jade", "<|im_end|>",
	"\nDoor", "n\n", "<think>", "</think>", "</think>\n",
}
