// Package prompt turns observations and tips into messages, and replies of the policy into actions.
//
// Start with [Template]. [Parse] reads one from a prompt-template file; [Default] is the template "plain". The data
// flows in this order:
//
//   - [Template.Opening] returns the system message of an episode.
//   - [Template.Turn] returns the user's message of a turn. Tips enter the prompt here, as a span of their own
//     (tipsSpan). The kind of that span is chat.TipsSpan, so that package rollout can render the prompt without tips.
//   - [Template.Action] extracts the action from the policy's reply.
//   - [Template.Request] returns the message that asks for a tip after the episode.
package prompt

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"text/template"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler/chat"
)

// Template renders messages by the blocks of a template file ([Parse]). It is immutable and safe for concurrent use.
// The zero value has no blocks: it can extract actions, but not render messages.
type Template struct {
	MaxTipsPerTurn   int // tips that a turn shows; 0: all that the memory recalls
	MaxTipCharacters int // of a tip that the policy writes; the rest is cut off; 0: no limit

	name, text     string // of the file
	blocks         *template.Template
	order          []chat.SpanKind // of the spans in a turn
	rule           actionRule
	lower          bool // actions are lower-cased
	stateOnlyFirst bool // turns with feedback do not show the state
}

// Default returns the template "plain". The embedded policy was trained with it.
func Default() Template {
	text, err := Source("plain")
	if err != nil {
		panic(err) // the file is embedded
	}
	f, err := Parse("plain", text)
	if err != nil {
		panic(err) // a test parses it
	}
	return f
}

// Name returns the name of the template file.
func (f Template) Name() string { return f.name }

// Text returns the content of the template file.
func (f Template) Text() string { return f.text }

// SHA256 returns the checksum of Text in hexadecimal digits.
func (f Template) SHA256() string {
	sum := sha256.Sum256([]byte(f.text))
	return hex.EncodeToString(sum[:])
}

// Opening returns the messages before the first turn: the system message, or nothing if its block renders to nothing.
func (f Template) Opening(t envs.Task) []chat.Message {
	text := f.render(chat.SystemSpan, systemFields{t.Instruction})
	if text == "" {
		return nil
	}
	return []chat.Message{{Role: chat.RoleSystem, Spans: []chat.Span{{Kind: chat.SystemSpan, Text: text}}}}
}

// Turn returns the user's message of a turn. Its spans are feedback, tips and state in the order that the template
// names. Without tips, or without feedback, the message has no such span.
func (f Template) Turn(o envs.Observation, tips []Tip) chat.Message {
	m := chat.Message{Role: chat.RoleUser}
	for _, kind := range f.order {
		switch {
		case kind == chat.FeedbackSpan && o.Feedback != "":
			m.Spans = append(m.Spans, f.span(kind, feedbackFields{o.Feedback}))
		case kind == chat.TipsSpan && len(tips) > 0:
			m.Spans = append(m.Spans, f.tipsSpan(tips))
		case kind == chat.StateSpan && (!f.stateOnlyFirst || o.Feedback == ""):
			m.Spans = append(m.Spans, f.span(kind, stateFields{o.State}))
		}
	}
	return m
}

// tipsSpan renders the tips of a turn. It is the only place where tips enter a prompt.
func (f Template) tipsSpan(tips []Tip) chat.Span {
	lines := make([]string, len(tips))
	for i, t := range tips {
		lines[i] = oneLine(t.Text)
	}
	return f.span(chat.TipsSpan, tipsFields{lines})
}

// Request returns the user's message that asks for a tip after the last turn. earlier are
// tips that were written about the task before.
func (f Template) Request(t envs.Task, final envs.Observation, earlier ...Tip) chat.Message {
	m := chat.Message{Role: chat.RoleUser}
	if final.Feedback != "" {
		m.Spans = append(m.Spans, f.span(chat.FeedbackSpan, feedbackFields{final.Feedback}))
	}
	if len(earlier) > 0 {
		m.Spans = append(m.Spans, f.tipsSpan(earlier))
	}
	m.Spans = append(m.Spans, f.span(chat.ReflectionSpan, reflectionFields{t.Reflection}))
	return m
}

func (f Template) span(kind chat.SpanKind, fields any) chat.Span {
	return chat.Span{Kind: kind, Text: f.render(kind, fields)}
}

// render executes a block. Parse accepts only blocks that cannot fail. If one fails nevertheless, the error becomes
// part of the prompt, where the operator sees it.
func (f Template) render(kind chat.SpanKind, fields any) string {
	var b strings.Builder
	if err := f.blocks.ExecuteTemplate(&b, string(kind), fields); err != nil {
		return "(" + err.Error() + ")"
	}
	return b.String()
}

// oneLine replaces line breaks with spaces, so that a tip cannot imitate other parts of a prompt.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, s)
}
