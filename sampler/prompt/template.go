// Package prompt reads prompt-template files: what the policy is shown of an
// observation and of the tips, and which part of a reply is the action.
package prompt

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"text/template"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler/chat"
)

// Template turns what an environment says into messages, by the blocks of a
// template file ([Parse]), and what the policy wrote into an action. It
// is immutable and safe for concurrent use. A Template without a file, such
// as the zero value, only passes replies on.
type Template struct {
	MaxTipsPerTurn   int // 0: as many as the memory gives
	MaxTipCharacters int // a written tip is cut after as many characters; 0: never

	name, text string // of the file
	blocks     *template.Template
	order      []chat.SpanKind // of the spans in a turn
	rule       actionRule
	lower      bool
	brief      bool // the state is left out of turns with feedback
}

// Default is the template "plain", which the embedded policy was trained
// with.
func Default() Template {
	text, err := Source("plain")
	if err != nil {
		panic(err) // it is part of the program
	}
	f, err := Parse("plain", text)
	if err != nil {
		panic(err) // and a test reads it
	}
	return f
}

// Name is the name of the template file.
func (f Template) Name() string { return f.name }

// Text is the content of the template file.
func (f Template) Text() string { return f.text }

// SHA256 is the checksum of Text in hexadecimal digits.
func (f Template) SHA256() string {
	sum := sha256.Sum256([]byte(f.text))
	return hex.EncodeToString(sum[:])
}

// Opening is what stands before the first turn: the system message, or nothing
// if its block is empty.
func (f Template) Opening(t envs.Task) []chat.Message {
	text := f.render(chat.SystemSpan, systemFields{t.Instruction})
	if text == "" {
		return nil
	}
	return []chat.Message{{Role: chat.RoleSystem, Spans: []chat.Span{{Kind: chat.SystemSpan, Text: text}}}}
}

// Turn is the user's message before an action: feedback, tips and state, in
// the order and with the exceptions that the template names.
func (f Template) Turn(o envs.Observation, tips []Tip) chat.Message {
	m := chat.Message{Role: chat.RoleUser}
	for _, kind := range f.order {
		switch {
		case kind == chat.FeedbackSpan && o.Feedback != "":
			m.Spans = append(m.Spans, f.span(kind, feedbackFields{o.Feedback}))
		case kind == chat.TipsSpan && len(tips) > 0:
			m.Spans = append(m.Spans, f.span(kind, tipsFields{tipLines(tips)}))
		case kind == chat.StateSpan && (!f.brief || o.Feedback == ""):
			m.Spans = append(m.Spans, f.span(kind, stateFields{o.State}))
		}
	}
	return m
}

func tipLines(tips []Tip) []string {
	lines := make([]string, len(tips))
	for i, t := range tips {
		lines[i] = oneLine(t.Text)
	}
	return lines
}

// Request is the user's message that asks for a tip after the last step.
func (f Template) Request(t envs.Task, final envs.Observation) chat.Message {
	m := chat.Message{Role: chat.RoleUser}
	if final.Feedback != "" {
		m.Spans = append(m.Spans, f.span(chat.FeedbackSpan, feedbackFields{final.Feedback}))
	}
	m.Spans = append(m.Spans, f.span(chat.ReflectionSpan, reflectionFields{t.Reflection}))
	return m
}

func (f Template) span(kind chat.SpanKind, fields any) chat.Span {
	return chat.Span{Kind: kind, Text: f.render(kind, fields)}
}

// render executes a block. What Parse accepts does not fail; if it does
// all the same, the prompt says so where everybody sees it.
func (f Template) render(kind chat.SpanKind, fields any) string {
	var b strings.Builder
	if err := f.blocks.ExecuteTemplate(&b, string(kind), fields); err != nil {
		return "(" + err.Error() + ")"
	}
	return b.String()
}

// oneLine keeps a tip on its line, so that it cannot imitate other parts of a prompt.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, s)
}
