package sampler

import (
	"slices"
	"strings"

	"github.com/empo2/empo2/envs"
)

// SpanKind says where a piece of a prompt comes from.
type SpanKind string

// The kinds of spans. Only TipsSpan is dropped from the tip-free rendering.
const (
	SystemSpan     SpanKind = "system"     // the task, told once
	FeedbackSpan   SpanKind = "feedback"   // what the last action did
	TipsSpan       SpanKind = "tips"       // the tips of one turn, with their header
	StateSpan      SpanKind = "state"      // the situation now
	ReflectionSpan SpanKind = "reflection" // the request for a tip
	ActionSpan     SpanKind = "action"     // what the policy wrote
)

// Span is a piece of text of one kind.
type Span struct {
	Kind SpanKind `json:"kind"`
	Text string   `json:"text"`
}

// The roles of a message.
const (
	RoleSystem    = "system"
	RoleUser      = "user"
	RoleAssistant = "assistant"
)

// Message is one turn of a conversation: its spans, a line or more each. The
// spans are what makes the two renderings possible; a rendered text is never
// searched for what should not be in it.
type Message struct {
	Role  string `json:"role"`
	Spans []Span `json:"spans"`
}

// Text joins the spans with line breaks. Empty spans leave no line.
func (m Message) Text() string {
	texts := make([]string, 0, len(m.Spans))
	for _, s := range m.Spans {
		if s.Text != "" {
			texts = append(texts, s.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// HasTips reports whether m shows a tip.
func (m Message) HasTips() bool {
	return slices.ContainsFunc(m.Spans, func(s Span) bool { return s.Kind == TipsSpan })
}

// WithoutTips is m without its tips spans.
func (m Message) WithoutTips() Message {
	bare := Message{Role: m.Role}
	for _, s := range m.Spans {
		if s.Kind != TipsSpan {
			bare.Spans = append(bare.Spans, s)
		}
	}
	return bare
}

// Format holds the texts around what the environment says. An empty
// TipsHeader or TipPrefix leaves that text out; the other zero values have
// the meaning given at the field.
type Format struct {
	System     string `json:"system"`     // stands before the task's instruction; empty: nothing
	TipsHeader string `json:"tipsheader"` // the line above the tips
	TipPrefix  string `json:"tipprefix"`  // in front of every tip
	// Reflection is asked when the task has no request of its own.
	Reflection     string `json:"reflection"`
	MaxTipsPerTurn int    `json:"maxtips"`     // 0: as many as the memory gives
	MaxTipRunes    int    `json:"maxtiprunes"` // a written tip is cut after as many characters; 0: never
}

// DefaultFormat is what the embedded policy was trained with.
func DefaultFormat() Format {
	return Format{
		TipsHeader:  "Tips:",
		TipPrefix:   "- ",
		Reflection:  "Write one tip for the next attempt.",
		MaxTipRunes: 600, // a sentence of a hundred words
	}
}

// Opening is what stands before the first turn: the system message, or nothing
// if neither f nor the task has a text for it.
func (f Format) Opening(t envs.Task) []Message {
	m := Message{Role: RoleSystem}
	for _, text := range []string{f.System, t.Instruction} {
		if text != "" {
			m.Spans = append(m.Spans, Span{SystemSpan, text})
		}
	}
	if len(m.Spans) == 0 {
		return nil
	}
	return []Message{m}
}

// Turn is the user's message before an action: feedback, tips, state.
func (f Format) Turn(o envs.Observation, tips []Tip) Message {
	m := Message{Role: RoleUser}
	if o.Feedback != "" {
		m.Spans = append(m.Spans, Span{FeedbackSpan, o.Feedback})
	}
	if len(tips) > 0 {
		m.Spans = append(m.Spans, Span{TipsSpan, f.list(tips)})
	}
	m.Spans = append(m.Spans, Span{StateSpan, o.State})
	return m
}

// list writes the tips below their header, one line each.
func (f Format) list(tips []Tip) string {
	var lines []string
	if f.TipsHeader != "" {
		lines = append(lines, f.TipsHeader)
	}
	for _, t := range tips {
		lines = append(lines, f.TipPrefix+oneLine(t.Text))
	}
	return strings.Join(lines, "\n")
}

// Request is the user's message that asks for a tip after the last step.
func (f Format) Request(t envs.Task, final envs.Observation) Message {
	text := t.Reflection
	if text == "" {
		text = f.Reflection
	}
	return Message{Role: RoleUser, Spans: []Span{
		{FeedbackSpan, final.Feedback}, {ReflectionSpan, text},
	}}
}

// CleanTip is the tip in what the policy wrote: the first line that says
// something, valid UTF-8, at most MaxTipRunes characters. It may be empty.
func (f Format) CleanTip(text string) string {
	text = strings.TrimSpace(strings.ToValidUTF8(text, ""))
	first, _, _ := strings.Cut(text, "\n")
	runes := []rune(first)
	if f.MaxTipRunes > 0 && len(runes) > f.MaxTipRunes {
		runes = runes[:f.MaxTipRunes]
	}
	return strings.TrimSpace(string(runes))
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, s)
}
