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

// TemplateNames returns the names of all templates, which are the values of sampler.template.
func TemplateNames() []string {
	return append([]string{TemplateAuto}, slices.Sorted(maps.Keys(namedTemplates()))...)
}

// Template renders conversations of the form [system] user (assistant user)* to token ids. It renders incrementally:
// each prompt is the previous prompt, the sampled ids and the rendering of the new messages. The sampled ids are never
// tokenized again. A Template is immutable and safe for concurrent use.
//
// A template is unstable if the model's rendering of a conversation does not begin with the rendering of its beginning.
// An unstable template renders every prompt from scratch.
type Template struct {
	name         string
	tokenizer    Tokenizer
	separators   map[boundary][]part
	endID        int32           // the control token that ends the policy's message, or noToken
	trimmedRoles map[string]bool // roles whose text loses the white space around it
	controls     map[string]int32
	stripping    map[int32]bool // control tokens after which the model's tokenizer drops white space
	thoughtEndID int32          // the id of </think>, or noToken
	openThought  string         // the mark of a thought with which the beginning of a reply ends; empty: none

	unstable string // the reason; empty: the template is stable
	renderer Renderer
	// mergesSystem says that the renderer has no system role. The system's text then precedes the first user's text.
	mergesSystem bool
}

const noToken int32 = -1

// A boundary is the place between two messages with these roles. from is empty before the first message.
type boundary struct{ from, to string }

// NewTemplate makes a template by its name ([TemplateNames]) with the server's tokenizer. Only "auto" needs the
// renderer. It is verified more strictly if the tokenizer, control or renderer is a [SpecialTokenizer].
func NewTemplate(
	ctx context.Context, name string, tokenizer Tokenizer, control ControlTokens, renderer Renderer,
) (*Template, error) {
	t := &Template{
		name: name, tokenizer: tokenizer, renderer: renderer,
		thoughtEndID: noToken, endID: noToken, controls: map[string]int32{},
		stripping: map[int32]bool{},
	}
	err := t.build(ctx, control)
	if err == nil {
		var ids []int32
		if ids, err = t.tokenize(ctx, thoughtEnd); len(ids) == 1 {
			t.thoughtEndID = ids[0]
		}
		t.openThought = openThoughtOf(t.replyBeginning(ctx))
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
	f, ok := namedTemplates()[t.name]
	if !ok {
		return fmt.Errorf("unknown template\n  hint: sampler.template is one of %s",
			strings.Join(TemplateNames(), ", "))
	}
	if t.name == TemplateMistral {
		if _, err := control.ControlToken(ctx, mistralSystem); err == nil {
			f = mistral7()
		}
	}
	return t.resolve(ctx, f, control)
}

// resolve looks up the ids of a named template's control tokens.
func (t *Template) resolve(ctx context.Context, f namedTemplate, control ControlTokens) error {
	for _, text := range f.controls {
		id, err := control.ControlToken(ctx, text)
		if err != nil {
			return fmt.Errorf("%w\n  hint: %s", err, fittingTemplates(ctx, control))
		}
		t.controls[text] = id
	}
	t.endID, t.trimmedRoles = t.controls[f.end], f.trimmedRoles
	t.separators = make(map[boundary][]part, len(f.separators))
	for b, text := range f.separators {
		t.separators[b] = splitAtControls(text, t.controls)
	}
	return nil
}

// fittingTemplates is the remedy for a named template whose control tokens the model lacks.
func fittingTemplates(ctx context.Context, control ControlTokens) string {
	var fit []string
	for name, f := range namedTemplates() {
		missing := slices.ContainsFunc(f.controls, func(text string) bool {
			_, err := control.ControlToken(ctx, text)
			return err != nil
		})
		if !missing {
			fit = append(fit, fmt.Sprintf("%q", name))
		}
	}
	slices.Sort(fit)
	const auto = "sampler.template = \"auto\" uses the model's own; if it has none, add chat_template.jinja to its folder"
	if len(fit) == 0 {
		return "none of the named templates fits the model's control tokens: " + auto
	}
	return fmt.Sprintf("of the named templates, %s fits the model's control tokens; %s", strings.Join(fit, ", "), auto)
}

// Name returns the template's name.
func (t *Template) Name() string { return t.name }

// Unstable returns the reason why the template renders every prompt from scratch, so that an episode has one row per
// turn. It is empty if the template is stable.
func (t *Template) Unstable() string { return t.unstable }

// ControlTexts returns the control tokens of the template, sorted.
func (t *Template) ControlTexts() []string { return slices.Sorted(maps.Keys(t.controls)) }

// EOS returns the id of the token that ends the policy's message, or -1 if an unstable template has none.
func (t *Template) EOS() int32 { return t.endID }

// replyBeginning returns the text that the template writes before a reply, or "" if it is unknown.
func (t *Template) replyBeginning(ctx context.Context) string {
	if t.unstable != "" {
		text, err := t.renderer.Render(ctx, []Message{NewMessage(RoleUser, "?")}, true)
		if err != nil {
			return ""
		}
		return text
	}
	var text strings.Builder
	for _, p := range t.separators[boundary{RoleUser, RoleAssistant}] {
		text.WriteString(p.text)
		for name, id := range t.controls {
			if p.control && id == p.id {
				text.WriteString(name)
			}
		}
	}
	return text.String()
}

// Extend returns the ids between tokens and the next sampled id:
//
//   - the end token, if tokens do not end with it because the policy's reply was cut off;
//   - the messages, of which the last must be the user's;
//   - the beginning of the policy's next message.
//
// Empty tokens begin a conversation. An unstable template returns an error for other tokens.
func (t *Template) Extend(ctx context.Context, tokens []int32, messages ...Message) ([]int32, error) {
	if t.unstable != "" {
		if len(tokens) > 0 {
			return nil, fmt.Errorf("template %s is unstable and cannot extend a prompt: %s", t.name, t.unstable)
		}
		return t.rerender(ctx, messages)
	}
	var parts []part
	last := ""
	if len(tokens) > 0 {
		last = RoleAssistant
		if tokens[len(tokens)-1] != t.endID {
			parts = append(parts, part{control: true, id: t.endID})
		}
	}
	for _, m := range messages {
		between, ok := t.separators[boundary{last, m.Role}]
		if !ok {
			return nil, fmt.Errorf("template %s: a message of role %s after role %q", t.name, m.Role, last)
		}
		parts = append(append(parts, between...), part{text: t.text(m)})
		if last = m.Role; last == RoleAssistant {
			parts = append(parts, part{control: true, id: t.endID})
		}
	}
	if last != RoleUser {
		return nil, fmt.Errorf("template %s: the role of the last message is %q, want user", t.name, last)
	}
	return t.encode(ctx, append(parts, t.separators[boundary{RoleUser, RoleAssistant}]...))
}

// Reply returns the ids that the policy samples to write a reply: the text and the token that ends
// the policy's message. Training on demonstrations needs them. It fails if the template has no such token.
func (t *Template) Reply(ctx context.Context, text string) ([]int32, error) {
	if t.endID == noToken {
		return nil, fmt.Errorf("template %s: no control token ends the policy's message: %s", t.name, t.unstable)
	}
	ids, err := t.tokenize(ctx, text)
	return append(slices.Clone(ids), t.endID), err
}

// text returns a message's text as the template renders it.
func (t *Template) text(m Message) string {
	if t.trimmedRoles[m.Role] {
		return strings.TrimSpace(m.Text())
	}
	return m.Text()
}
