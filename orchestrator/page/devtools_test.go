package page

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// patience bounds what a test waits for; nothing takes as long.
const patience = time.Minute

// devtools is a client of a tab of Chromium, which speaks the DevTools protocol.
type devtools struct {
	t       *testing.T
	socket  *websocket.Conn
	session string
	event   func(method string, params json.RawMessage)

	mu      sync.Mutex
	last    int
	waiting map[int]chan message
}

// message is a command, its answer or an event.
type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// startChromium starts the program and opens a tab. It calls event with each event of the tab.
func startChromium(t *testing.T, program string, event func(method string, params json.RawMessage)) *devtools {
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0", "--user-data-dir="+t.TempDir(),
		"--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "about:blank")
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &devtools{t: t, event: event, waiting: map[int]chan message{}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if d.socket, _, err = websocket.Dial(ctx, listening(t, stderr), nil); err != nil {
		t.Fatal(err)
	}
	d.socket.SetReadLimit(64 << 20)
	var reading sync.WaitGroup
	reading.Go(d.read)
	t.Cleanup(func() { // the folder of the profile is removed later
		d.command("Browser.close", nil, nil)
		reading.Wait()
		_ = cmd.Wait()
	})
	var target struct{ TargetID, SessionID string }
	d.command("Target.createTarget", object{"url": "about:blank"}, &target)
	d.command("Target.attachToTarget", object{"targetId": target.TargetID, "flatten": true}, &target)
	d.session = target.SessionID
	return d
}

// listening returns the address that Chromium prints. What it prints later is dropped.
func listening(t *testing.T, stderr io.Reader) string {
	t.Helper()
	lines := bufio.NewScanner(stderr)
	var seen []string
	for lines.Scan() {
		seen = append(seen, lines.Text())
		if address, ok := strings.CutPrefix(lines.Text(), "DevTools listening on "); ok {
			go func() { _, _ = io.Copy(io.Discard, stderr) }() // ends with the process
			return address
		}
	}
	t.Fatalf("Chromium does not start:\n%s", strings.Join(seen, "\n"))
	return ""
}

// read hands out what Chromium sends until the connection ends.
func (d *devtools) read() {
	for {
		var m struct {
			message
			Params json.RawMessage `json:"params"`
		}
		if wsjson.Read(context.Background(), d.socket, &m) != nil {
			break
		}
		if m.ID == 0 {
			d.event(m.Method, m.Params)
			continue
		}
		d.mu.Lock()
		d.waiting[m.ID] <- m.message
		delete(d.waiting, m.ID)
		d.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.waiting {
		close(c)
	}
	d.waiting = nil
}

// command sends a command and decodes its result. It fails the test after an error.
func (d *devtools) command(method string, params, result any) {
	d.t.Helper()
	if err := d.try(method, params, result); err != nil {
		d.t.Fatalf("%s: %v", method, err)
	}
}

func (d *devtools) try(method string, params, result any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := make(chan message, 1)
	d.mu.Lock()
	if d.waiting == nil {
		d.mu.Unlock()
		return errors.New("chromium has ended")
	}
	d.last++
	m := message{ID: d.last, Session: d.session, Method: method, Params: params}
	d.waiting[m.ID] = c
	d.mu.Unlock()
	if method == "Browser.close" {
		m.Session = ""
	}
	if err := wsjson.Write(ctx, d.socket, m); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case answer, ok := <-c:
		switch {
		case !ok && method == "Browser.close":
			return nil
		case !ok:
			return errors.New("chromium has ended")
		case answer.Error != nil:
			return fmt.Errorf("%s", answer.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(answer.Result, result)
	}
}

// evaluated is the answer to a script.
type evaluated struct {
	Result struct {
		Value json.RawMessage `json:"value"`
	} `json:"result"`
	Exception *exception `json:"exceptionDetails"`
}

// exception is an error of a script.
type exception struct {
	Text      string `json:"text"`
	Exception struct {
		Description string `json:"description"`
	} `json:"exception"`
}

// evaluate runs a script in the tab and decodes its value, also that of a promise.
func (d *devtools) evaluate(script string, out any) error {
	var answer evaluated
	err := d.try("Runtime.evaluate", object{"expression": script, "awaitPromise": true, "returnByValue": true}, &answer)
	switch {
	case err != nil:
		return err
	case answer.Exception != nil:
		return fmt.Errorf("%s %s", answer.Exception.Text, answer.Exception.Exception.Description)
	case out == nil:
		return nil
	}
	return json.Unmarshal(answer.Result.Value, out)
}
