package chat

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// derive asks the renderer for conversations whose texts are sentinels. What
// stands between two sentinels are the template's joints. A rendering that
// does not only grow, or is not what the joints make, leaves t unstable; one
// that cannot be reproduced at all is an error.
func (t *Template) derive(ctx context.Context, control ControlTokens) error {
	if t.renderer == nil {
		return errors.New("this server does not say how it renders a conversation" + nameIt)
	}
	t.joints, t.trims = map[joint][]part{}, map[string]bool{}
	d := deriver{Template: t, control: control, special: special(t.tokenizer, control, t.renderer)}
	err := d.shape(ctx)
	if err == nil && t.unstable == "" {
		t.unstable, err = d.grows(ctx)
	}
	if err == nil && t.unstable == "" {
		t.unstable, err = d.equals(ctx, func(ctx context.Context, m []Message) ([]int32, error) { return t.Extend(ctx, nil, m...) })
	}
	if err != nil || t.unstable == "" {
		return err
	}
	why, err := d.equals(ctx, t.whole)
	if err == nil && why != "" {
		err = fmt.Errorf("the server's rendering cannot be reproduced: %s%s", why, nameIt)
	}
	return err
}

const nameIt = "\n  hint: name the model's template: sampler.template = \"chatml\", \"gemma\", \"llama3\" or \"mistral\""

// A deriver finds out about a template; t is not shared yet.
type deriver struct {
	*Template
	control ControlTokens
	special SpecialTokenizer // nil: none
}

func special(candidates ...any) SpecialTokenizer {
	for _, c := range candidates {
		if s, ok := c.(SpecialTokenizer); ok {
			return s
		}
	}
	return nil
}

// pieces renders a conversation of roles and returns what stands around the
// texts, which have margin on both sides; one more than roles. They are nil if
// the texts do not stand in their order, once each.
func (d deriver) pieces(ctx context.Context, margin string, roles ...string) ([]string, error) {
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

// shape fills the joints, or says why there are none.
func (d deriver) shape(ctx context.Context) error {
	user, err := d.pieces(ctx, "", RoleUser, RoleAssistant, RoleUser, RoleAssistant, RoleUser)
	if err != nil {
		return fmt.Errorf("render a conversation: %w", err)
	}
	system, err := d.pieces(ctx, "", RoleSystem, RoleUser, RoleAssistant, RoleUser)
	if d.merges = errors.Is(err, ErrRefused); err != nil && !d.merges {
		return fmt.Errorf("render a conversation with a system message: %w", err)
	}
	if err := d.learn(ctx, slices.Concat(user, system, []string{thoughtStart, thoughtEnd})); err != nil {
		return err
	}
	d.unstable = d.joinery(user, system)
	return d.margins(ctx)
}

// joinery fills the joints from the pieces around users and assistants, alone
// and after a system message. It says why that is not possible.
func (d deriver) joinery(user, system []string) string {
	switch {
	case user == nil || system == nil && !d.merges:
		return "it does not show every text once and in order"
	case user[1] != user[3] || user[2] != user[4] || !d.merges && (system[2] != user[1] || system[3] != user[2]):
		return "its turns are not rendered alike"
	case user[5] != user[1]:
		return fmt.Sprintf("the policy's message is opened by %q and later shown after %q", user[5], user[1])
	}
	back := cut(user[2], d.controls)
	if len(back) == 0 || !back[0].control {
		return fmt.Sprintf("no control token ends the policy's message, but %q", user[2])
	}
	d.end = back[0].id
	first, between := user[0], "\n\n"
	if !d.merges {
		first, between = system[0], system[1]
	}
	for j, text := range map[joint]string{
		{"", RoleSystem}: first, {RoleSystem, RoleUser}: between, {"", RoleUser}: user[0], {RoleUser, RoleAssistant}: user[1],
	} {
		d.joints[j] = cut(text, d.controls)
	}
	d.joints[joint{RoleAssistant, RoleUser}] = back[1:]
	return ""
}

// margins finds out which roles' texts lose white space around them, on one
// side or both, alone or behind a system message. Such texts are trimmed before
// they are rendered.
func (d deriver) margins(ctx context.Context) error {
	const margin = " \n "
	talks := [][]string{{RoleUser}, {RoleSystem, RoleUser}}
	if d.merges {
		d.trims[RoleSystem], talks = true, talks[:1]
	}
	for _, roles := range talks {
		pieces, err := d.pieces(ctx, margin, roles...)
		if err != nil {
			return fmt.Errorf("render a conversation: %w", err)
		}
		for i, role := range roles {
			kept := pieces == nil || strings.HasSuffix(pieces[i], margin) && strings.HasPrefix(pieces[i+1], margin)
			d.trims[role] = d.trims[role] || !kept
		}
	}
	return nil
}

// candidates are what may be a control token in a piece of a template.
var candidates = regexp.MustCompile(`<[^<>\s]{1,80}>|\[[^\[\]\s]{1,80}\]`)

// learn resolves the control tokens in the pieces.
func (d deriver) learn(ctx context.Context, pieces []string) error {
	for _, c := range candidates.FindAllString(strings.Join(pieces, " "), -1) {
		if _, known := d.controls[c]; known {
			continue
		}
		id, ok, err := d.lookUp(ctx, c)
		if err != nil {
			return err
		}
		if ok {
			d.controls[c] = id
		}
	}
	return nil
}

// lookUp says whether text is a control token. Tokens that plain text makes as
// well, as <think> in many models, are none.
func (d deriver) lookUp(ctx context.Context, text string) (int32, bool, error) {
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
