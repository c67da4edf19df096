package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

var errSeen = errors.New("the test has seen enough")

// hangs starts a server that never answers. At its first request it calls see and
// cancels the context.
func hangs(t *testing.T, see func(ctx context.Context)) (_ context.Context, url string) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(watchdog.With(t.Context(), watchdog.New()))
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if ctx.Err() == nil {
			see(ctx)
			cancel(errSeen)
		}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	return ctx, server.URL
}

// The first request to an environment or a server that never answers has a name.
func TestHangingStartsHaveNames(t *testing.T) {
	f := func(name string, open func(ctx context.Context, url string) error, want string) {
		t.Helper()
		var shown string
		ctx, url := hangs(t, func(ctx context.Context) {
			for _, i := range watchdog.From(ctx).Status().InFlight {
				shown += i.Subsystem + ": " + i.What + "\n"
			}
		})
		err := open(ctx, url)
		if want = strings.ReplaceAll(want, "URL", url); err == nil || !strings.Contains(shown, want) {
			t.Errorf("%s: waiting for %q, want %q; %v", name, shown, want, err)
		}
	}
	for _, name := range []string{"remote", "agentgym", "openenv", "ors"} {
		f(name, func(ctx context.Context, url string) error {
			sets := []string{"env.name=" + name, "env." + name + ".url=" + url}
			if name == "agentgym" {
				sets = append(sets, "env.agentgym.dialect=sciworld", "env.agentgym.train=0-9")
			}
			family, err := openFamily(ctx, opening{config: load(t, sets...)})
			if err == nil {
				family.Close()
			}
			return err
		}, "environment: open "+name+" at URL\n")
	}
	for _, name := range []string{"openai", "vllm", "sglang", "ollama"} {
		f(name, func(ctx context.Context, url string) error {
			sets := []string{"sampler.backend=" + name, "sampler.served_model_name=m", "algorithm.name=adapt"}
			o := opening{}
			switch name {
			case "vllm", "sglang":
				sets[2] = fmt.Sprintf("sampler.%s.urls=[%q]", name, url)
				o.codec = &trainerCodec{}
			default:
				sets = append(sets, "sampler."+name+".url="+url)
			}
			o.config = load(t, sets...)
			server, err := backends[name].open(ctx, o)
			if err == nil {
				server.Close()
			}
			return err
		}, "server: probe URL")
	}
}

// While an environment hangs at the start of a run, the status of the run names it,
// and restarts are events already. The failed start leaves no configuration, so that
// the next one may have another.
func TestStatusWhileTheEnvironmentHangs(t *testing.T) {
	c := load(t, "run.dir="+t.TempDir(), "env.name=remote", "env.remote.url=http://127.0.0.1:1")
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	var text []byte
	var phases []string
	ctx, url := hangs(t, func(context.Context) { text, _ = os.ReadFile(filepath.Join(dir, statusFile)) })
	c.Env.Remote.URL = url
	_, err := openRun(ctx, c, tools{}, zerolog.Nop(), func(p watchdog.Phase) { phases = append(phases, p.Detail) })
	if !errors.Is(err, errSeen) {
		t.Errorf("%v, want that the test has seen enough", err)
	}
	var s watchdog.Status
	if err := json.Unmarshal(text, &s); err != nil || s.Phase == nil || s.Phase.Detail != "environment" ||
		!strings.Contains(strings.Join(s.Lines(), "\n"), "doing: start: environment\n") {
		t.Errorf("status %s, %v", text, err)
	}
	if got := strings.Join(phases, ", "); got != "environment" {
		t.Errorf("phases %q", got)
	}
	if s, err := readStatus(dir); err != nil || s.Ended != errSeen.Error() {
		t.Errorf("the run ended with %q, %v", s.Ended, err)
	}
	other := c
	other.Env.Name = "vault"
	l, err := openLedger(t.Context(), other)
	if err != nil {
		t.Fatalf("another environment after the failed start: %v", err)
	}
	l.Close()
}

// A restart of a child process is recorded from the moment on at which the folder of
// the run is open.
func TestRestartsAtTheStartAreEvents(t *testing.T) {
	const want = "environment restart"
	c, ctx := load(t, "run.dir="+t.TempDir()), t.Context()
	failAfterARestart(t, c)
	l, err := ledger.Open(ctx, filepath.Join(c.Run.Dir, c.Run.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	events, err := l.Events(ctx, 10)
	if err != nil || len(events) != 1 || events[0].Kind != want {
		t.Errorf("events %+v, %v, want one of kind %q", events, err, want)
	}
}

// A start that fails after the environment was opened leaves a run that takes any other
// configuration, and a warm start.
func TestAfterAFailedStart(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	ctx := t.Context()
	bad := load(t, "run.dir="+t.TempDir(), "algorithm.name=adapt", "sampler.backend=openai",
		"sampler.served_model_name=m", "sampler.openai.url="+server.URL)
	dir := filepath.Join(bad.Run.Dir, bad.Run.Name)
	if _, err := openRun(ctx, bad, tools{}, zerolog.Nop(), func(watchdog.Phase) {}); err == nil {
		t.Fatal("a server without an API was accepted")
	}
	l, err := ledger.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := l.Config(ctx)
	if err = errors.Join(err, l.Close()); err != nil || text == "" {
		t.Fatalf("the failed start has recorded %q, %v", text, err)
	}
	if _, err := (&warmstartCmd{Data: "/dev/null"}).plan(ctx, load(t, "run.dir="+bad.Run.Dir), 2); err != nil {
		t.Errorf("a warm start: %v", err)
	}
	better := load(t, "run.dir="+bad.Run.Dir, "env.vault.doors=3", "memory.k=3", "trainer.rank=4")
	if l, err = openLedger(ctx, better); err != nil {
		t.Fatalf("another configuration: %v", err)
	}
	defer l.Close()
	var want strings.Builder
	if err := config.Write(&want, better); err != nil {
		t.Fatal(err)
	}
	if text, err = l.Config(ctx); err != nil || text != want.String() {
		t.Errorf("recorded %s, %v", text, err)
	}
}

// Tips may be imported before the first start, and stay if that fails. Only the memory's
// keys are fixed then.
func TestAStartAfterAnImport(t *testing.T) {
	ctx := t.Context()
	t.Chdir(t.TempDir())
	if code, text := executeWith(t, goodBank, "memory", "import", "--profile", "demo"); code != 0 {
		t.Fatal(text)
	}
	l, err := openLedger(ctx, load(t, "env.vault.doors=3", "trainer.rank=4"))
	if err != nil {
		t.Fatalf("other keys than those of the memory: %v", err)
	}
	imports, _, err := l.Imports(ctx)
	if err = errors.Join(err, l.Close()); err != nil || len(imports) != 1 {
		t.Errorf("imports %v, %v", imports, err)
	}
	if l, err = openLedger(ctx, load(t, "memory.threshold=0.7")); err == nil {
		l.Close()
		t.Error("the embeddings of imported tips have another threshold")
	}
}

// A warm start that failed before its first checkpoint leaves no folder behind: a run
// does not begin beside one.
func TestAfterAFailedWarmStart(t *testing.T) {
	ctx := t.Context()
	t.Chdir(t.TempDir())
	c := load(t)
	w := &warmStart{out: warmBase(c), work: warmBase(c) + ".work"}
	made := firstMissing(w.work)
	lock, err := w.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	checkpoint := filepath.Join(w.work, "checkpoints", "000001")
	if err := os.MkdirAll(checkpoint, 0o755); err != nil {
		t.Fatal(err)
	}
	interrupted, cancel := context.WithCancel(ctx)
	cancel()
	if err := errors.Join(w.leave(ctx, errSeen, made), os.Remove(checkpoint), w.leave(ctx, nil, made),
		w.leave(interrupted, errSeen, made)); err != nil {
		t.Fatal(err)
	}
	if err := checkWarmStart(ctx, c); err == nil {
		t.Error("a run may begin beside a warm start that is not finished")
	}
	if err := errors.Join(w.leave(ctx, errSeen, made), checkWarmStart(ctx, c)); err != nil {
		t.Errorf("after a failed warm start: %v", err)
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// commitSteps commits the first n steps of a run, as far as it does not have them.
func commitSteps(t *testing.T, l *ledger.Ledger, n int64) {
	t.Helper()
	last, err := l.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for step := last.Step + 1; step <= n; step++ {
		err := errors.Join(l.SavePlan(t.Context(), step, json.RawMessage("{}")),
			l.Commit(t.Context(), ledger.Step{Step: step, Metrics: json.RawMessage("{}")}, nil, nil))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What happens at the start of a run that continues belongs to the step that comes next.
func TestEventsOfTheStartHaveTheirStep(t *testing.T) {
	c, ctx := load(t, "run.dir="+t.TempDir()), t.Context()
	l, err := openLedger(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	commitSteps(t, l, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	failAfterARestart(t, c)
	if l, err = ledger.Open(ctx, filepath.Join(c.Run.Dir, c.Run.Name)); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	events, err := l.Events(ctx, 1)
	if err != nil || len(events) != 1 || events[0].Step != 4 {
		t.Errorf("events %+v, %v, want one of step 4", events, err)
	}
}

// The phase names what is started.
func TestPhasesOfTheStart(t *testing.T) {
	f := func(algorithm, want string) {
		t.Helper()
		c := config.Default()
		c.Algorithm.Name = algorithm
		if got := processes(c); got != want {
			t.Errorf("%s: %q, want %q", algorithm, got, want)
		}
	}
	f("empo2", "trainer and server")
	f("adapt", "server")
}

// failAfterARestart opens a run whose environment restarts once and then fails.
func failAfterARestart(t *testing.T, c config.Config) {
	t.Helper()
	open := families["vault"]
	defer func() { families["vault"] = open }()
	gone := errors.New("gone")
	families["vault"] = func(_ context.Context, o opening) (envs.Family, error) {
		o.restarted("environment")("jvm", errors.New("killed"))
		return nil, gone
	}
	if _, err := openRun(t.Context(), c, tools{}, zerolog.Nop(), func(watchdog.Phase) {}); !errors.Is(err, gone) {
		t.Fatal(err)
	}
}
