package page

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// hostile holds what a text from outside may try: elements, a handler, a character that
// turns the direction, control characters, half of a pair, and the end of a script.
const hostile = `<script>window.hacked=1</script><img src=x onerror="window.hacked=1">` +
	"\u202eevil\u202c \x1b[31mred\x00 \u200b" + `</script><!-- ${window.hacked=1} {{7*7}}`

// longLine is a line of 1 MB.
var longLine = strings.Repeat("0123456789abcdef", 1<<16)

// runName is a name that needs escapes in addresses.
const runName = "runs/vault & co-1"

// fixture is a run with hostile texts, as the server would answer. Tests change it and send
// events.
type fixture struct {
	mu     sync.Mutex
	steps  int
	live   bool
	log    []string // events that were sent and paths that were asked for
	events map[chan string]bool
	fail   bool // the next answers are errors
}

func newFixture() *fixture {
	return &fixture{steps: 48, live: true, events: map[chan string]bool{}}
}

// grow adds a step and tells the browsers.
func (f *fixture) grow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps++
	f.send("change")
}

func (f *fixture) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = false
	f.send("change")
}

// send sends an event to all browsers. The caller holds mu.
func (f *fixture) send(event string) {
	f.log = append(f.log, "event "+event)
	for c := range f.events {
		c <- f.event(event)
	}
}

// event is an event as the server sends it. The caller holds mu.
func (f *fixture) event(name string) string {
	return fmt.Sprintf("event: %s\ndata: {\"run\":%q,\"live\":%t,\"steps\":%d}\n\n", name, runName, f.live, f.steps)
}

func (f *fixture) logged() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *fixture) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; "+
		"connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	switch {
	case r.URL.Path == "/api/events":
		f.stream(w, r)
	case strings.HasPrefix(r.URL.Path, "/api/"):
		f.answer(w, r)
	default:
		http.FileServerFS(os.DirFS("assets")).ServeHTTP(w, r)
	}
}

func (f *fixture) stream(w http.ResponseWriter, r *http.Request) {
	c := make(chan string, 64)
	f.mu.Lock()
	f.events[c] = true
	text := f.event("change")
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.events, c)
		f.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	for {
		if _, err := w.Write([]byte(text)); err != nil || flusher.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case text = <-c:
		}
	}
}

func (f *fixture) answer(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := r.URL.EscapedPath()
	f.log = append(f.log, r.Method+" "+path)
	w.Header().Set("Content-Type", "application/json")
	value, ok := f.answers()[strings.TrimPrefix(path, "/api/runs/"+encoded(runName))]
	switch {
	case f.fail:
		w.WriteHeader(http.StatusInternalServerError)
		value = map[string]string{"error": "run.db: " + hostile, "hint": "empo2 check RUN"}
	case r.Method == http.MethodPost && r.Header.Get("X-Empo2") != "page":
		w.WriteHeader(http.StatusForbidden)
		value = map[string]string{"error": "a change needs the header"}
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusConflict)
		value = map[string]string{"error": "the run is running", "hint": "empo2 memory pin RUN ID"}
	case strings.HasSuffix(path, "/episodes"):
		value = f.episodes(r.URL.Query().Get("mode"), r.URL.Query().Get("cursor"))
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		value = map[string]string{"error": "there is no " + path}
	}
	_ = json.NewEncoder(w).Encode(value)
}

// encoded is encodeURIComponent for the names of the fixture.
func encoded(name string) string {
	return strings.NewReplacer("/", "%2F", " ", "%20", "&", "%26").Replace(name)
}

type object = map[string]any

// answers are all answers by their path below the run, or by their whole path.
func (f *fixture) answers() map[string]any {
	return map[string]any{
		"/api/runs":    object{"runs": []any{f.run(runName), f.run("runs/grpo-1"), f.run("runs/grpo-2")}},
		"/api/compare": f.compare(),
		"/now":         f.now(), "/series": f.series(), "/episodes": f.episodes("", ""), "/episode": f.episode(),
		"/tips":   f.tips(),
		"/recall": object{"tips": []any{object{"text": hostile, "similarity": 0.91, "score": 1}}},
	}
}

// exported are the answers as an exported file holds them.
func (f *fixture) exported(t *testing.T) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for path, value := range f.answers() {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case path == "/episode":
			path = "/api/runs/" + encoded(runName) + path + "?kind=training&place=47%2F0%2F1"
		case path == "/api/compare":
			path += "?runs=" + encoded(runName)
		case !strings.HasPrefix(path, "/api/"):
			path = "/api/runs/" + encoded(runName) + path
		}
		out[path] = text
	}
	return out
}

func (f *fixture) run(name string) object {
	return object{"name": name, "dir": "/tmp/" + name, "live": f.live && name == runName, "problem": "",
		"steps":   f.steps,
		"version": f.steps, "episodes": 64 * f.steps, "evaluated": 512, "failed": 1,
		"changed": "2026-05-01T12:00:00Z"}
}

// success is a curve that rises from 0 to 1.
func success(step int) float64 { return 1 / (1 + math.Exp(-(float64(step)-24)/6)) }

func (f *fixture) now() object {
	tile := func(key, label string, value, change float64, n any) object {
		low, high := any(max(0, value-0.08)), any(min(1, value+0.08))
		if n == nil {
			low, high = nil, nil
		}
		return object{"key": key, "label": label, "unit": "%", "value": value, "change": change, "low": low,
			"high": high, "n": n}
	}
	rate := success(f.steps)
	return object{
		"overview": object{"dir": "/tmp/run", "steps": f.steps, "version": f.steps, "episodes": 64 * f.steps,
			"evaluated": 512,
			"failed":    1, "bytes": 41_000_000, "changed": "2026-05-01T12:00:00Z"},
		"live": f.live, "news": fmt.Sprint(f.steps),
		"phase": object{"name": "sampling", "step": f.steps + 1, "of": 96, "done": 40, "total": 64,
			"since": "2026-05-01T12:00:00Z", "eta_s": 12.5},
		"health": []any{object{"level": "warning",
			"text": "31 % of the replies were cut; raise rollout.max_tokens " + hostile},
			object{"level": "ok", "text": "server and trainer agree within 0.001 nats"}},
		"tiles": []any{tile("success_without", "success without tips", rate, 0.031, 256),
			tile("success_with", "success with tips", 0.94, 0, 256), tile("cut", "cut replies", 0.312, 0.02, nil),
			tile("no_gradient", "groups without gradient", 0.25, -0.05, nil)},
		"inflight": []any{object{"what": "episode 49/2/1", "detail": "waits for the server " + hostile,
			"since": "2026-05-01T12:00:00Z"}},
	}
}

func (f *fixture) series() object {
	x := map[string][]any{}
	lines := map[string][]any{}
	evaluations := []any{}
	for step := 1; step <= f.steps; step++ {
		noise := math.Sin(float64(step)*12.9) / 20
		x["step"], x["episodes"] = append(x["step"], step), append(x["episodes"], 64*step)
		x["tokens"], x["seconds"] = append(x["tokens"], 9000*step), append(x["seconds"], 3.8*float64(step))
		for name, value := range map[string]float64{"return_without": success(step) + noise,
			"return_with": success(step+8) + noise,
			"cut":         0.3 - float64(step)/200, "kl": float64(step) / 900, "entropy": 1.6 - float64(step)/50 + noise,
			"mismatch": 8e-7 + noise*noise/1e4, "masked": 0.01 + noise*noise, "grad_norm": 1 + 8*noise,
			"ratio":       1 + noise,
			"no_gradient": 0.5 - float64(step)/120, "seconds_sampling": 1.8 + noise, "seconds_training": 1.7,
			"seconds_publishing": 0.3,
			"tokens_sampled":     8000 + 4000*noise, "tokens_trained": 9000, "another": noise} {
			lines[name] = append(lines[name], value)
		}
		lines["approx_kl"] = append(lines["approx_kl"], nil)
		if step%4 == 0 {
			for _, tips := range []bool{false, true} {
				rate := success(step)
				if tips {
					rate = success(step + 8)
				}
				evaluations = append(evaluations, object{"step": step, "split": "eval", "with_tips": tips,
					"rate": rate,
					"low":  max(0, rate-0.06), "high": min(1, rate+0.06), "n": 256, "mean": rate})
			}
		}
	}
	return object{"x": x, "lines": lines, "evaluations": evaluations, "events": []any{
		object{"at": "2026-05-01T12:00:00Z", "step": 9, "kind": "prompt", "text": "act.txt was changed " + hostile},
		object{"at": "2026-05-01T12:01:00Z", "step": 21, "kind": "warning", "text": "31 % of the replies were cut"},
		object{"at": "2026-05-01T12:02:00Z", "step": 33, "kind": "restart",
			"text": "the run continued after an interruption"},
	}}
}

func (f *fixture) row(group, number int) object {
	mode := []string{"on_policy", "on_policy_tips", "off_policy", "on_policy"}[number%4]
	won := (group+number)%3 == 0
	return object{"place": fmt.Sprintf("%d/%d/%d", 47-group/4, group%4, number), "kind": "training",
		"task": "house 1 door " + hostile,
		"mode": mode, "version": 46 - group/4, "return": map[bool]float64{true: 1, false: 0.25}[won],
		"advantage": map[bool]any{true: 0.75, false: -0.25}[won], "turns": 5, "cut": number % 2, "empty": 0,
		"tips_shown": 2 * (number % 2),
		"success":    won, "stop": "terminated", "error": "", "at": "2026-05-01T12:00:00Z"}
}

// episodes is a page of the list: two pages in all.
func (f *fixture) episodes(mode, cursor string) object {
	rows := []any{}
	from := map[string]int{"": 0, "second": 12}[cursor]
	for group := from; group < from+12; group++ {
		for number := range 4 {
			if row := f.row(group, number); mode == "" || row["mode"] == mode {
				rows = append(rows, row)
			}
		}
	}
	next := "second"
	if cursor != "" || mode != "" {
		next = ""
	}
	return object{"rows": rows, "next": next, "total": 96, "tasks": []string{"house 1 door " + hostile},
		"modes": []string{"on_policy", "on_policy_tips", "off_policy"}}
}

func (f *fixture) episode() object {
	e := f.row(0, 1)
	maps.Copy(e, object{"score": 1, "bonus": 0.1, "tokens_trained": 42,
		"tip_written": "Take the key first. " + hostile})
	turn := func(number int) object {
		tokens := []any{}
		for i, piece := range []string{"Go", " to", " the", " red", " door", ".", "\n", hostile, "action", ": open"} {
			tokens = append(tokens, object{"id": 100 + i, "text": piece, "logprob": -0.04 * math.Pow(2.2, float64(i)),
				"trainer_logprob": -0.04*math.Pow(2.2, float64(i)) + 0.003*float64(i*i),
				"ratio":           0.7 + 0.08*float64(i), "masked": i == 7})
		}
		return object{"number": number, "spans": []any{object{"kind": "system",
			"text": "You walk through a house.", "author": nil},
			object{"kind": "tips", "text": "The red key opens the red door. " + hostile, "author": "12/0/3"},
			object{"kind": "state", "text": "You see a red door and a blue door.\n" + hostile, "author": nil}},
			"reply": "Go to the red door.", "action": "open red door", "reward": 0.2, "done": number == 2,
			"finish": "length", "tokens": tokens}
	}
	second := turn(2)
	second["spans"] = []any{object{"kind": "feedback", "text": longLine, "author": nil}}
	return object{"episode": e, "turns": []any{turn(1), second},
		"tip_free": []any{object{"number": 1, "text": "You walk through a house.\nYou see a red door.\n" + hostile}},
		"siblings": []any{object{"place": "47/0/0", "kind": "training", "mode": "on_policy", "version": 46,
			"return": 1}}}
}

func (f *fixture) tips() object {
	tips := []any{}
	for i := range 12 {
		var association any
		if i < 9 {
			d := 0.5 - 0.1*float64(i)
			association = object{"seen": object{"n": 40, "mean": 0.5 + d/2}, "others": object{"n": 80,
				"mean": 0.5 - d/2},
				"difference": d, "low": d - 0.15, "high": d + 0.15}
		}
		tips = append(tips, object{"id": fmt.Sprint(i), "scope": "house 1",
			"text":    fmt.Sprintf("Tip %d: the red key opens the red door. %s", i, hostile),
			"written": 1 + i%2, "author": fmt.Sprintf("%d/0/%d", 40-i, i%4), "version": 4, "stored": 1,
			"score": 1, "shown": 90 - i, "seen": 40 - i,
			"first_shown": 5, "last_shown": 45, "association": association, "pinned": i == 3})
	}
	return object{"tips": tips}
}

func (f *fixture) compare() object {
	series := f.series()
	runs := []any{}
	for i, name := range []string{runName, "runs/grpo-1", "runs/grpo-2"} {
		evaluations := []any{}
		for step := 4; step <= f.steps; step += 4 {
			rate := success(step) / float64(1+i)
			evaluations = append(evaluations, object{"step": step, "split": "eval", "with_tips": false, "rate": rate,
				"low": max(0, rate-0.06), "high": min(1, rate+0.06), "n": 256, "mean": rate})
		}
		runs = append(runs, object{"name": name, "x": series["x"], "evaluations": evaluations})
	}
	return object{"runs": runs,
		"paired": []any{object{"task": "house 1 " + hostile, "a": "runs/grpo-1", "b": runName,
			"a_step": 44, "b_step": 48, "difference": 0.4,
			"low": 0.2, "high": 0.6}},
		"config": []any{object{"key": "algorithm.name", "values": object{runName: "empo2",
			"runs/grpo-1": "grpo " + hostile, "runs/grpo-2": "grpo"}}},
		"prompts": []any{object{"name": "act.txt",
			"diff": " You walk through a house.\n-Answer with one action.\n+Think, then answer with one action. " + hostile}}}
}

// fixtureServer serves a handler on a port of this machine, and can be stopped and started again.
type fixtureServer struct {
	t       *testing.T
	address string
	http    *http.Server
}

func serveFixture(t *testing.T, handler http.Handler) *fixtureServer {
	s := &fixtureServer{t: t, address: "127.0.0.1:0"}
	s.start(handler)
	t.Cleanup(func() { s.http.Close() })
	return s
}

func (s *fixtureServer) start(handler http.Handler) {
	s.t.Helper()
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = listener.Addr().String()
	s.http = &http.Server{Handler: handler}
	go func() { _ = s.http.Serve(listener) }()
}

func (s *fixtureServer) url(hash string) string { return "http://" + s.address + "/" + hash }
