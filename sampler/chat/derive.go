package chat

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// derive derives the template "auto" from the renderer. It renders conversations whose texts are sentinels; the texts
// between two sentinels are the template's separators. Then it verifies the result with realistic conversations:
//
//   - If prompts do not only grow, or the separators do not reproduce them, the template is unstable.
//   - If rendering from scratch does not reproduce them either, derive returns an error.
func (t *Template) derive(ctx context.Context, control ControlTokens) error {
	if t.renderer == nil {
		return errors.New("this server does not return its rendering of a conversation" + nameTemplateHint)
	}
	t.separators, t.trimmedRoles = map[boundary][]part{}, map[string]bool{}
	d := deriver{Template: t, control: control, special: findSpecialTokenizer(t.tokenizer, control, t.renderer)}
	err := d.deriveSeparators(ctx)
	if err == nil && t.unstable == "" {
		t.unstable, err = d.checkPromptsGrow(ctx)
	}
	if err == nil && t.unstable == "" {
		t.unstable, err = d.checkEqual(ctx, func(ctx context.Context, m []Message) ([]int32, error) {
			return t.Extend(ctx, nil, m...)
		})
	}
	if err != nil || t.unstable == "" {
		return err
	}
	difference, err := d.checkEqual(ctx, t.rerender)
	if err == nil && difference != "" {
		err = fmt.Errorf("the server's rendering cannot be reproduced: %s%s", difference, nameTemplateHint)
	}
	return err
}

const nameTemplateHint = "\n  hint: name the model's template: " +
	"sampler.template = \"chatml\", \"gemma\", \"llama3\" or \"mistral\""

// A deriver derives a template. It modifies the template, which no other goroutine uses yet.
type deriver struct {
	*Template
	control ControlTokens
	special SpecialTokenizer // nil: none
}

// findSpecialTokenizer returns the first candidate that is a SpecialTokenizer, or nil.
func findSpecialTokenizer(candidates ...any) SpecialTokenizer {
	for _, c := range candidates {
		if s, ok := c.(SpecialTokenizer); ok {
			return s
		}
	}
	return nil
}

// renderSentinels renders a conversation of roles. Each text is a sentinel with margin on both sides. It returns the
// pieces of the rendering around the sentinels, one more than roles, or nil if the sentinels do not occur once each and
// in order.
func (d deriver) renderSentinels(ctx context.Context, margin string, roles ...string) ([]string, error) {
	messages := make([]Message, len(roles))
	for i, role := range roles {
		messages[i] = NewMessage(role, margin+sentinel(i)+margin)
	}
	text, err := d.renderer.Render(ctx, messages, true)
	if err != nil {
		return nil, err
	}
	var pieces []string
	at := 0
	for i, m := range sentinels.FindAllStringIndex(text, -1) {
		if i >= len(roles) || text[m[0]:m[1]] != sentinel(i) {
			return nil, nil
		}
		pieces = append(pieces, text[at:m[0]])
		at = m[1]
	}
	if len(pieces) != len(roles) {
		return nil, nil
	}
	return append(pieces, text[at:]), nil
}

// deriveSeparators fills the template's separators, or says why the template is unstable.
func (d deriver) deriveSeparators(ctx context.Context) error {
	user, err := d.renderSentinels(ctx, "", RoleUser, RoleAssistant, RoleUser, RoleAssistant, RoleUser)
	if err != nil {
		return fmt.Errorf("render a conversation: %w", err)
	}
	system, err := d.renderSentinels(ctx, "", RoleSystem, RoleUser, RoleAssistant, RoleUser)
	if d.mergesSystem = errors.Is(err, ErrRefused); err != nil && !d.mergesSystem {
		return fmt.Errorf("render a conversation with a system message: %w", err)
	}
	if err := d.resolveControls(ctx, slices.Concat(user, system, []string{thoughtStart, thoughtEnd})); err != nil {
		return err
	}
	d.unstable = d.setSeparators(user, system)
	return d.findTrimmedRoles(ctx)
}

// setSeparators fills the separators from the pieces of two conversations. user has the six pieces around the texts of
// user, assistant, user, assistant, user; system has the five pieces around system, user, assistant, user. If that is
// not possible, it returns the reason.
func (d deriver) setSeparators(user, system []string) string {
	var afterReply []part
	if user != nil { // an unstable template may have an end token, too
		afterReply = splitAtControls(user[2], d.controls)
		if len(afterReply) > 0 && afterReply[0].control {
			d.endID = afterReply[0].id
		}
	}
	switch {
	case user == nil || system == nil && !d.mergesSystem:
		return "it does not show every text once and in order"
	case user[1] != user[3] || user[2] != user[4] || !d.mergesSystem && (system[2] != user[1] || system[3] != user[2]):
		return "it does not render all turns in the same way"
	case user[5] != user[1]:
		return fmt.Sprintf("the policy's message begins after %q and later prompts show it after %q", user[5], user[1])
	}
	if d.endID == noToken {
		return fmt.Sprintf("no control token ends the policy's message, but %q", user[2])
	}
	first, between := user[0], "\n\n"
	if !d.mergesSystem {
		first, between = system[0], system[1]
	}
	for b, text := range map[boundary]string{
		{"", RoleSystem}: first, {RoleSystem, RoleUser}: between,
		{"", RoleUser}: user[0], {RoleUser, RoleAssistant}: user[1],
	} {
		d.separators[b] = splitAtControls(text, d.controls)
	}
	d.separators[boundary{RoleAssistant, RoleUser}] = afterReply[1:]
	return ""
}

// findTrimmedRoles finds the roles whose texts lose white space on at least one side, without or with a system message.
// Their texts are trimmed before they are rendered.
func (d deriver) findTrimmedRoles(ctx context.Context) error {
	const margin = " \n "
	conversations := [][]string{{RoleUser}, {RoleSystem, RoleUser}}
	if d.mergesSystem {
		d.trimmedRoles[RoleSystem], conversations = true, conversations[:1]
	}
	for _, roles := range conversations {
		pieces, err := d.renderSentinels(ctx, margin, roles...)
		if err != nil {
			return fmt.Errorf("render a conversation: %w", err)
		}
		for i, role := range roles {
			kept := pieces == nil || strings.HasSuffix(pieces[i], margin) && strings.HasPrefix(pieces[i+1], margin)
			d.trimmedRoles[role] = d.trimmedRoles[role] || !kept
		}
	}
	return nil
}

// controlPattern matches texts of a template that may be control tokens.
var controlPattern = regexp.MustCompile(`<[^<>\s]{1,80}>|\[[^\[\]\s]{1,80}\]`)

// resolveControls looks up the ids of the control tokens in pieces.
func (d deriver) resolveControls(ctx context.Context, pieces []string) error {
	for _, c := range controlPattern.FindAllString(strings.Join(pieces, " "), -1) {
		if _, known := d.controls[c]; known {
			continue
		}
		id, ok, err := d.controlID(ctx, c)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		d.controls[c] = id
		if d.stripping[id], err = d.stripsAfter(ctx, c, id); err != nil {
			return err
		}
	}
	return nil
}

// stripsAfter reports whether a control token takes the white space after it away, as Phi-3's tokens do.
func (d deriver) stripsAfter(ctx context.Context, text string, id int32) (bool, error) {
	if d.special == nil {
		return false, nil
	}
	ids, err := d.special.TokenizeSpecial(ctx, text+" \n")
	return slices.Equal(ids, []int32{id}), err
}

// controlID returns the id of a control token; ok is false if text is not one. A token that plain text can produce,
// such as <think> in many models, is not a control token.
func (d deriver) controlID(ctx context.Context, text string) (id int32, ok bool, err error) {
	if d.special == nil {
		id, err := d.control.ControlToken(ctx, text)
		if ctx.Err() != nil {
			return 0, false, context.Cause(ctx)
		}
		return id, err == nil, nil
	}
	ids, err := d.special.TokenizeSpecial(ctx, text)
	if err != nil {
		return 0, false, err
	}
	plain, err := d.tokenizer.Tokenize(ctx, text)
	if err != nil || len(ids) != 1 || slices.Equal(ids, plain) {
		return 0, false, err
	}
	return ids[0], true, nil
}
