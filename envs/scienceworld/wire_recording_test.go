package scienceworld

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"
)

type recordedExchange struct{ Send, Reply string }

// The commands of the Python client that this package has are encoded as the same
// bytes. Each reply is decoded, and encoding its text again gives the same bytes.
func TestWireRecordingIsEncodedEqually(t *testing.T) {
	calls := 0
	eachRecording(t, recordings(t, "api.jsonl.gz"), "wire", func(x recordedExchange) {
		lines := strings.Split(x.Send, "\n")
		if lines[0] == "c" {
			calls++
			if got := callCommand(objectID(lines[1]), lines[2], arguments(t, lines[3:len(lines)-2])...); got != x.Send {
				t.Errorf("%q, want %q", got, x.Send)
			}
		}
		v, _ := parseReply(strings.TrimSuffix(x.Reply, "\n"))
		if s, ok := v.(string); ok && "!ys"+escape(s)+"\n" != x.Reply {
			t.Errorf("%q is not encoded to the same reply", x.Reply)
		}
	})
	t.Logf("%d calls", calls)
}

func arguments(t *testing.T, lines []string) (args []any) {
	t.Helper()
	for _, l := range lines {
		switch l[0] {
		case 's':
			args = append(args, unescape(l[1:]))
		case 'i':
			n, err := strconv.Atoi(l[1:])
			if err != nil {
				t.Fatal(err)
			}
			args = append(args, n)
		case 'b':
			args = append(args, l == "bTrue")
		case 'r':
			args = append(args, objectID(l[1:]))
		case 'n':
			args = append(args, nil)
		default:
			t.Fatalf("argument %q", l)
		}
	}
	return args
}

// The gateway answers the recorded commands with the recorded bytes.
func TestWireRecordingLive(t *testing.T) {
	path := recordings(t, "api.jsonl.gz")
	c, err := live(t).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	h := launchLive(t, c)
	// The Python client creates two objects before the simulator.
	for _, class := range []string{"java.lang.Object", "java.lang.Object", interfaceClass} {
		if _, err := h.object(t.Context(), newCommand(class)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	eachRecording(t, path, "wire", func(x recordedExchange) {
		n++
		if err := h.control.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.control.conn.Write([]byte(x.Send)); err != nil {
			t.Fatal(err)
		}
		line, err := h.control.readLine()
		if err != nil {
			t.Fatal(err)
		}
		// A stack trace has line numbers of the recorded py4j release.
		want, _, _ := strings.Cut(strings.TrimSuffix(x.Reply, "\n"), `\n`+"\tat ")
		got, _, _ := strings.Cut(line, `\n`+"\tat ")
		if got != want {
			t.Errorf("%q: got %q, want %q", x.Send, got, want)
		}
	})
	t.Logf("%d exchanges", n)
}

// launchLive starts a JVM without a pool.
func launchLive(t *testing.T, c Config) *jvmHost {
	t.Helper()
	f := &Family{config: c}
	if err := f.find(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := launcher{java: f.java, jar: f.jar, flags: f.flags, timeout: c.Deadlines.Start, log: c.Log}
	h, err := launchHost(context.WithoutCancel(t.Context()), l, false, c.Reads, c.Deadlines)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}
