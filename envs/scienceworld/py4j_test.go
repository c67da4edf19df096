package scienceworld

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestCommandsAreEncoded(t *testing.T) {
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(newCommand(interfaceClass), "i\nscienceworld.runtime.pythonapi.PythonInterface\ne\n")
	f(callCommand("o0", "load", "melt", 3, "easy", false), "c\no0\nload\nsmelt\ni3\nseasy\nbFalse\ne\n")
	f(callCommand("t", "step", nil), "c\nt\nstep\nn\ne\n")
	f(callCommand(class("java.lang.String"), "join", "\x1f", objectID("o5")),
		"c\nz:java.lang.String\njoin\ns\x1f\nro5\ne\n")
	f(newArrayCommand("java.net.URL", 1), "a\nc\nsjava.net.URL\ni1\ne\n")
	f(setArrayCommand("o2", 0, "o1"), "a\ns\no2\ni0\nro1\ne\n")
	f(freeCommand("o7"), "m\nd\no7\ne\n")
}

// An action must stay on one line. If not, it could call any Java method.
func TestActionsAreEscaped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attack := rapid.SampledFrom([]string{"", "\ne\nc\nt\nload\ne\n", "\r\\n\xff", "\\\r\n"}).Draw(t, "attack")
		action := rapid.String().Draw(t, "action") + attack
		command := callCommand("t", "step", action)
		if n := strings.Count(command, "\n"); n != 5 || strings.Contains(command, "\r") || !utf8.ValidString(command) {
			t.Fatalf("command %q", command)
		}
		if got := unescape(escape(action)); got != strings.ToValidUTF8(action, "\uFFFD") {
			t.Fatalf("%q is decoded as %q", action, got)
		}
	})
}

func TestParseReply(t *testing.T) {
	f := func(line string, want any) {
		t.Helper()
		got, err := parseReply(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", line, d)
		}
	}
	f(`!ysa\nb\\n\r`, "a\nb\\n\r")
	f(`!ys`, "")
	f(`!ysone \ alone\`, `one \ alone\`)
	f(`!yi-3`, -3)
	f(`!yL9007199254740993`, 9007199254740993)
	f(`!yd1.0E-4`, 1e-4)
	f(`!ybtrue`, true)
	f(`!yro0`, objectID("o0"))
	f(`!ylo12`, objectID("o12"))
	f(`!yjAQI=`, []byte{1, 2})
	f(`!yn`, nil)
	f(`!yv`, nil)
	f(`!y`, nil)
}

func TestParseReplyRefuses(t *testing.T) {
	f := func(line, want string) {
		t.Helper()
		if _, err := parseReply(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", line, err, want)
		}
	}
	f("", "not a py4j reply")
	f("HTTP/1.1 400", "not a py4j reply")
	f("!z", "not a py4j reply")
	f("!yi1.5", "invalid syntax")
	f("!ydNaN", "finite")
	f("!yl", "without a name")
	f("!yqx", "unknown type")
	f("!xro5", "java exception o5")
	f(`!xspy4j.Py4JException: Method x does not exist\n\tat y`, "py4j: py4j.Py4JException: Method x does not exist")
}

func FuzzParseReply(f *testing.F) {
	for _, s := range []string{"!ysa\\n", "!yi1", "!yd-1.0", "!xro1", "!xsboom", "!ylo2", "!yjAA==", "", "!", "!y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		v, err := parseReply(line)
		if err != nil && v != nil {
			t.Fatalf("both %v and %v", v, err)
		}
		if s, ok := v.(string); ok && unescape(escape(s)) != strings.ToValidUTF8(s, "\uFFFD") {
			t.Fatalf("%q is not decoded to the same text", s)
		}
	})
}
