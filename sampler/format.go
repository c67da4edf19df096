package sampler

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"text/template"

	"github.com/empo2/empo2/envs"
)

// Format turns what an environment says into messages, by the blocks of a
// template file ([ParseFormat]), and what the policy wrote into an action. It
// is immutable and safe for concurrent use. A Format without a template, such
// as the zero value, only cleans tips and passes replies on.
type Format struct {
	MaxTipsPerTurn int // 0: as many as the memory gives
	MaxTipRunes    int // a written tip is cut after as many characters; 0: never

	name, text string // of the file
	blocks     *template.Template
	order      []SpanKind // of the spans in a turn
	rule       actionRule
	lower      bool
	brief      bool // the state is left out of turns with feedback
}

// DefaultFormat is the template "plain", which the embedded policy was trained
// with.
func DefaultFormat() Format {
	text, err := PromptTemplate("plain")
	if err != nil {
		panic(err) // it is part of the program
	}
	f, err := ParseFormat("plain", text)
	if err != nil {
		panic(err) // and a test reads it
	}
	return f
}

// Name is the name of the template file.
func (f Format) Name() string { return f.name }

// Text is the content of the template file.
func (f Format) Text() string { return f.text }

// SHA256 is the checksum of Text in hexadecimal digits.
func (f Format) SHA256() string {
	sum := sha256.Sum256([]byte(f.text))
	return hex.EncodeToString(sum[:])
}

// Opening is what stands before the first turn: the system message, or nothing
// if its block is empty.
func (f Format) Opening(t envs.Task) []Message {
	text := f.render(SystemSpan, systemFields{t.Instruction})
	if text == "" {
		return nil
	}
	return []Message{{Role: RoleSystem, Spans: []Span{{SystemSpan, text}}}}
}

// Turn is the user's message before an action: feedback, tips and state, in
// the order and with the exceptions that the template names.
func (f Format) Turn(o envs.Observation, tips []Tip) Message {
	m := Message{Role: RoleUser}
	for _, kind := range f.order {
		switch {
		case kind == FeedbackSpan && o.Feedback != "":
			m.Spans = append(m.Spans, Span{kind, f.render(kind, feedbackFields{o.Feedback})})
		case kind == TipsSpan && len(tips) > 0:
			m.Spans = append(m.Spans, Span{kind, f.render(kind, tipsFields{tipLines(tips)})})
		case kind == StateSpan && (!f.brief || o.Feedback == ""):
			m.Spans = append(m.Spans, Span{kind, f.render(kind, stateFields{o.State})})
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
func (f Format) Request(t envs.Task, final envs.Observation) Message {
	m := Message{Role: RoleUser}
	if final.Feedback != "" {
		m.Spans = append(m.Spans, Span{FeedbackSpan, f.render(FeedbackSpan, feedbackFields{final.Feedback})})
	}
	m.Spans = append(m.Spans, Span{ReflectionSpan, f.render(ReflectionSpan, reflectionFields{t.Reflection})})
	return m
}

// render executes a block. What ParseFormat lets pass does not fail; if it does
// all the same, the prompt says so where everybody sees it.
func (f Format) render(kind SpanKind, fields any) string {
	var b strings.Builder
	if err := f.blocks.ExecuteTemplate(&b, string(kind), fields); err != nil {
		return "(" + err.Error() + ")"
	}
	return b.String()
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
