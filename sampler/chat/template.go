package chat

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The names of templates.
const (
	// TemplateAuto is derived from the server's own rendering and verified.
	TemplateAuto    = "auto"
	TemplateChatML  = "chatml"
	TemplateLlama3  = "llama3"
	TemplateGemma   = "gemma"
	TemplateMistral = "mistral"
)

// TemplateNames are the values of sampler.template.
func TemplateNames() []string {
	return append([]string{TemplateAuto}, slices.Sorted(maps.Keys(forms()))...)
}

// Template renders conversations of the form [system] user (assistant user)*
// to token ids. Every message is tokenized as a unit between control tokens,
// so that the ids of a conversation only grow: what was rendered once is never
// rendered again, and what the policy wrote stays as it was sampled, white
// space at its ends included. It is immutable and safe for concurrent use.
//
// A template whose renderings do not only grow is unstable: every prompt is
// rendered anew as a whole.
type Template struct {
	name      string
	tokenizer Tokenizer
	joints    map[joint][]part
	end       int32           // ends what the policy writes
	trims     map[string]bool // roles whose text loses the white space around it
	controls  map[string]int32
	thought   int32 // the id of </think>, or noToken

	unstable string // why; empty: it is stable
	renderer Renderer
	merges   bool // the system's text stands in front of the first user's, as renderer knows no system
}

const noToken int32 = -1

// A joint is a place between two messages; the roles tell which. Before the
// first message, and after the last, stands the empty role.
type joint struct{ after, before string }

// NewTemplate makes a template by its name ([TemplateNames]) from the server's
// own tokenizer. Only "auto" needs the renderer. A SpecialTokenizer is used to
// verify it, if tokenizer, control or renderer is one.
func NewTemplate(ctx context.Context, name string, tokenizer Tokenizer, control ControlTokens, renderer Renderer) (*Template, error) {
	t := &Template{name: name, tokenizer: tokenizer, renderer: renderer, thought: noToken, end: noToken, controls: map[string]int32{}}
	err := t.build(ctx, control)
	if err == nil {
		var ids []int32
		if ids, err = t.tokenize(ctx, thoughtEnd); len(ids) == 1 {
			t.thought = ids[0]
		}
	}
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", name, err)
	}
	return t, nil
}

func (t *Template) build(ctx context.Context, control ControlTokens) error {
	if t.name == TemplateAuto {
		return t.derive(ctx, control)
	}
	f, ok := forms()[t.name]
	if !ok {
		return fmt.Errorf("there is none of this name\n  hint: sampler.template is one of %s", strings.Join(TemplateNames(), ", "))
	}
	if t.name == TemplateMistral {
		if _, err := control.ControlToken(ctx, mistralSystem); err == nil {
			f = mistral7()
		}
	}
	return t.resolve(ctx, f, control)
}

// resolve makes the template of a form.
func (t *Template) resolve(ctx context.Context, f form, control ControlTokens) error {
	for _, text := range f.controls {
		id, err := control.ControlToken(ctx, text)
		if err != nil {
			return fmt.Errorf("%w\n  hint: the model has another template; sampler.template = \"auto\" asks the server for it", err)
		}
		t.controls[text] = id
	}
	t.end, t.trims = t.controls[f.end], f.trims
	t.joints = make(map[joint][]part, len(f.joints))
	for j, text := range f.joints {
		t.joints[j] = cut(text, t.controls)
	}
	return nil
}

// Name is the template's name.
func (t *Template) Name() string { return t.name }

// Unstable says why every prompt is rendered anew as a whole, and a trajectory
// is a row per turn; empty: prompts only grow.
func (t *Template) Unstable() string { return t.unstable }

// ControlTexts are the control tokens of the template, in order.
func (t *Template) ControlTexts() []string { return slices.Sorted(maps.Keys(t.controls)) }

// EOS is the token that ends what the policy writes. An unstable template may
// have none (-1).
func (t *Template) EOS() int32 { return t.end }

// Extend is everything between tokens and the next sampled id: the end token,
// if the policy was cut off before it, the messages, of which the last is the
// user's, and the opened message of the policy. Nothing stands before the
// first message if tokens are empty. Tokens of an unstable template cannot be
// extended.
func (t *Template) Extend(ctx context.Context, tokens []int32, messages ...Message) ([]int32, error) {
	if t.unstable != "" {
		if len(tokens) > 0 {
			return nil, fmt.Errorf("template %s is not stable: %s", t.name, t.unstable)
		}
		return t.whole(ctx, messages)
	}
	var parts []part
	last := ""
	if len(tokens) > 0 {
		last = RoleAssistant
		if tokens[len(tokens)-1] != t.end {
			parts = append(parts, part{control: true, id: t.end})
		}
	}
	for _, m := range messages {
		between, ok := t.joints[joint{last, m.Role}]
		if !ok {
			return nil, fmt.Errorf("template %s: a message of %s after one of %q", t.name, m.Role, last)
		}
		parts = append(append(parts, between...), part{text: t.text(m)})
		if last = m.Role; last == RoleAssistant {
			parts = append(parts, part{control: true, id: t.end})
		}
	}
	if last != RoleUser {
		return nil, fmt.Errorf("template %s: the last message is %q, not the user's", t.name, last)
	}
	return t.encode(ctx, append(parts, t.joints[joint{RoleUser, RoleAssistant}]...))
}

// text is a message's text as it is rendered.
func (t *Template) text(m Message) string {
	if t.trims[m.Role] {
		return strings.TrimSpace(m.Text())
	}
	return m.Text()
}
