package prompt

import "strings"

// actionRule says which part of a reply is the action.
type actionRule string

const (
	wholeReply actionRule = "reply"
	lastLine   actionRule = "line" // the last line that is not blank
	// insideTag is the text inside the last <action>…</action>. The closing tag may be missing, as in a reply that was
	// cut off. Without any tag the action is the last line.
	insideTag actionRule = "tag"
)

var actionRules = []actionRule{wholeReply, lastLine, insideTag}

// Action extracts the action from a reply of the policy by the template's option "action" and trims white space. The
// action may be empty or invalid; the environment checks it.
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

// Reply returns the shortest reply with an action. Demonstrations are made of such replies. [Template.Action] of the
// reply is the action as the environment gets it, for example in lower case.
func (f Template) Reply(action string) string {
	if f.rule == insideTag {
		return "<action>" + action + "</action>"
	}
	return action
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
