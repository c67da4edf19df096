package prompt

import "strings"

// actionRule says which part of a reply is the action.
type actionRule string

const (
	wholeReply actionRule = "reply"
	lastLine   actionRule = "line" // the last line that says something
	// insideTag is the text in the last <action>…</action>, also where a cut
	// reply lacks the closing tag; without any tag it is the last line.
	insideTag actionRule = "tag"
)

var actionRules = []actionRule{wholeReply, lastLine, insideTag}

// Action is the action in what the policy wrote, by the template's option
// action, without white space around. It may be empty: to judge it is the
// environment's business.
func (f Template) Action(reply string) string {
	switch f.rule {
	case lastLine:
		reply = finalLine(reply)
	case insideTag:
		if _, after, found := cutLast(reply, "<action>"); found {
			reply, _, _ = strings.Cut(after, "</action>")
		} else {
			reply = finalLine(reply)
		}
	}
	if f.lower {
		reply = strings.ToLower(reply)
	}
	return strings.TrimSpace(reply)
}

func finalLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
