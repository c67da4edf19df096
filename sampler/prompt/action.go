package prompt

import (
	"fmt"
	"strings"
)

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

// Reply returns the shortest reply whose action is the given one. Demonstrations are made of such replies. It fails if
// no reply has this action, for example because actions are lower-cased.
func (f Template) Reply(action string) (string, error) {
	reply := action
	if f.rule == insideTag {
		reply = "<action>" + action + "</action>"
	}
	if got := f.Action(reply); got != action {
		return "", fmt.Errorf("the template %s reads the action %q as %q", f.name, action, got)
	}
	return reply, nil
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
