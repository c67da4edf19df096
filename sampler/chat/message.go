// Package chat renders conversations to token ids.
//
// A conversation is a list of messages of typed spans. A [Template] renders it
// by the rules of the model, so that the ids of a conversation only grow and no
// text can forge a control token.
package chat

import (
	"slices"
	"strings"
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
	without := Message{Role: m.Role}
	for _, s := range m.Spans {
		if s.Kind != TipsSpan {
			without.Spans = append(without.Spans, s)
		}
	}
	return without
}

// NewMessage makes a message of one span. The kind of the span follows from the
// role.
func NewMessage(role, text string) Message {
	kind := map[string]SpanKind{RoleSystem: SystemSpan, RoleUser: StateSpan, RoleAssistant: ActionSpan}[role]
	return Message{Role: role, Spans: []Span{{kind, text}}}
}
