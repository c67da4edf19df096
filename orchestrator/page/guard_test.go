package page

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/sampler/chat"
)

func TestOtherSitesAreRefused(t *testing.T) {
	root := t.TempDir()
	recorded(t, filepath.Join(root, "one"))
	p := New(Options{Roots: []string{root}})
	defer p.Close()
	f := func(method, path, host string, headers map[string]string, want int) {
		t.Helper()
		r := httptest.NewRequest(method, path, nil)
		r.Host = host
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s %s of %s %v: status %d, want %d: %s", method, path, host, headers, w.Code, want, w.Body)
		}
		if !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'none'; script-src 'self';") {
			t.Errorf("%s has no policy", path)
		}
	}
	for _, host := range []string{"127.0.0.1:80", "localhost:1234", "[::1]:80", "localhost"} {
		f("GET", "/api/runs", host, nil, 200)
	}
	for _, host := range []string{"evil.example", "192.168.0.1:80", "127.0.0.1.evil.example",
		"localhost.evil.example", ""} {
		f("GET", "/api/runs", host, nil, 403)
	}
	f("GET", "/api/runs", "localhost:80", map[string]string{"Origin": "http://localhost:80"}, 200)
	f("GET", "/api/runs", "localhost:80", map[string]string{"Origin": "http://localhost:81"}, 403)
	f("GET", "/api/runs", "localhost:80", map[string]string{"Origin": "null"}, 403)
	f("GET", "/api/runs", "localhost:80", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403)
	f("GET", "/", "localhost:80", map[string]string{"Sec-Fetch-Site": "cross-site"}, 200)
	f("POST", "/api/runs/one/tips/pin", "localhost:80", nil, 403)
	f("DELETE", "/api/runs", "localhost:80", nil, 405)
	for _, path := range []string{"/../page.go", "/%2e%2e/page.go", "/vendor", "/vendor/", "/api/runs/..%2F..%2Fetc/now",
		"/api/runs/%00/now", "/api/nothing", "/api/events?run=..%2Fone", "/etc/passwd"} {
		r := httptest.NewRequest("GET", path, nil)
		r.Host = "localhost"
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
}

// Texts stay data: JSON without anything that HTML would parse, and of bounded size.
func TestHostileTextsAreBoundedData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	w := record(t, dir)
	const script = "</script><script>alert(1)</script>"
	e := played(1, 0, 0, script+strings.Repeat("t", 5000), 1)
	e.Turns[0].Action = script + strings.Repeat("x", 1<<20) + "\u202e\x00\x1b[2J"
	e.Turns[0].Prompt = []chat.Message{chat.NewMessage(chat.RoleUser, "\u202eevil\x07"+script)}
	e.Tip = strings.Repeat("<img src=x onerror=alert(1)>", 5000)
	w.add("", orchestrator.OnPolicy, e)
	if err := w.Event(t.Context(), 1, "prompt", strings.Repeat(script, 1000)); err != nil {
		t.Fatal(err)
	}
	run := serve(t, Options{Roots: []string{dir}}).URL + "/api/runs/one/"
	for address, limit := range map[string]int{
		"now": 10_000, "series": 20_000, "episodes": 10_000, "tips": 60_000, "episode?place=1/0/0": 2 << 20,
	} {
		status, body := get(t, run+address)
		if status != http.StatusOK || len(body) > limit || strings.ContainsAny(string(body), "<>\x1b\x00") {
			t.Errorf("%s: status %d, %d bytes: %.200s", address, status, len(body), body)
		}
	}
	got := answered[episodeAnswer](t, run+"episode?place=1/0/0")
	if text := got.Turns[0].Spans[0].Text; text != "\u202eevil\x07"+script {
		t.Errorf("the text has changed: %q", text)
	}
	if reply := got.Turns[0].Reply; len(reply) > maxText+3 || !strings.HasPrefix(reply, script) {
		t.Errorf("%d bytes", len(reply))
	}
}

// A request that comes while the page closes opens no run, which nobody would close.
func TestAClosedPageOpensNoRun(t *testing.T) {
	root := t.TempDir()
	recorded(t, filepath.Join(root, "one")).Close()
	p := New(Options{Roots: []string{root}})
	s := httptest.NewServer(p)
	defer s.Close()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, s.URL+"/api/runs/one/now"); status != http.StatusServiceUnavailable {
		t.Errorf("status %d: %s", status, body)
	}
}

func TestAFolderKeepsItsPort(t *testing.T) {
	dir := t.TempDir()
	first, err := ListenFor(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ListenFor(t.Context(), dir) // the port is taken
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	third, err := ListenFor(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
	third.Close()
	if a, b, c := first.Addr().String(), second.Addr().String(), third.Addr().String(); a == b || a != c {
		t.Errorf("the ports are %s, %s while it is taken, and %s afterwards", a, b, c)
	}
}
