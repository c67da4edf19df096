// Package chat renders conversations to token ids.
//
// A conversation is a list of [Message] values. A message consists of typed spans ([Span]), so that its tips can be
// left out: [Message.WithoutTips] removes the tips of a message, which is how off-policy rows lose their tips.
//
// Start with [Template]: [NewTemplate] makes one from the server's tokenizer, and [Template.Extend] renders messages
// after the tokens so far. Each text is tokenized by itself, between control tokens, so that prompts only grow and no
// text can forge a control token. There are two kinds of templates:
//
//   - named templates, such as ChatML, are written down in this package;
//   - "auto" derives the template from the server's own rendering and verifies it.
//
// [Neutralize] protects servers that take text instead of ids. [Thinking] says what happens to thoughts.
package chat

import (
	"slices"
	"strings"
)

// SpanKind says where a span of a message comes from.
type SpanKind string

// The kinds of spans. The rendering without tips leaves out only TipsSpan.
const (
	SystemSpan     SpanKind = "system"     // the instruction at the start of an episode
	FeedbackSpan   SpanKind = "feedback"   // the effect of the last action
	TipsSpan       SpanKind = "tips"       // the tips of one turn, with their header
	StateSpan      SpanKind = "state"      // the current state
	ReflectionSpan SpanKind = "reflection" // the request for a tip
	ActionSpan     SpanKind = "action"     // the policy's reply
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

// Message is one message of a conversation. Its spans are joined by line breaks. The rendering without tips is made
// from the spans; rendered texts are never searched for tips.
type Message struct {
	Role  string `json:"role"`
	Spans []Span `json:"spans"`
}

// Text joins the spans with line breaks and skips empty spans.
func (m Message) Text() string {
	texts := make([]string, 0, len(m.Spans))
	for _, s := range m.Spans {
		if s.Text != "" {
			texts = append(texts, s.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// HasTips reports whether m has tips.
func (m Message) HasTips() bool {
	return slices.ContainsFunc(m.Spans, func(s Span) bool { return s.Kind == TipsSpan })
}

// WithoutTips returns m without its spans of kind TipsSpan.
func (m Message) WithoutTips() Message {
	without := Message{Role: m.Role}
	for _, s := range m.Spans {
		if s.Kind != TipsSpan {
			without.Spans = append(without.Spans, s)
		}
	}
	return without
}

// NewMessage returns a message of one span. The role determines the kind of the span.
func NewMessage(role, text string) Message {
	kind := map[string]SpanKind{RoleSystem: SystemSpan, RoleUser: StateSpan, RoleAssistant: ActionSpan}[role]
	return Message{Role: role, Spans: []Span{{kind, text}}}
}
