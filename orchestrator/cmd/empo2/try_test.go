package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// wire has the requests that a fake server got.
type wire struct {
	mu   sync.Mutex
	sent []fakeserver.VLLMRequest
}

func (w *wire) record(r fakeserver.VLLMRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, r)
}

// take returns the requests since the last call.
func (w *wire) take() []fakeserver.VLLMRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.sent
	w.sent = nil
	return out
}

// fakeWorld changes to an empty folder whose server.toml names a fake server. The
// trainer is a fake too.
func fakeWorld(t *testing.T) *wire {
	t.Helper()
	python, err := exec.LookPath("fakepython")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	server := fakeserver.NewVLLM(scripted())
	server.Sent = w.record
	t.Cleanup(server.Close)
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("EMPO2_CACHE", filepath.Join(dir, "cache"))
	t.Setenv("EMPO2_PYTHON", python)
	text := fmt.Sprintf("[sampler]\nbackend = \"vllm\"\n[sampler.vllm]\nurls = [%q]\n", server.URL)
	if err := os.WriteFile("server.toml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

// empo2 runs a command in the test's process and returns what it prints.
func empo2(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	if got := execute(t.Context(), args, &out, &err); got != want {
		t.Fatalf("empo2 %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, out.String(), err.String())
	}
	return out.String(), err.String()
}

// eventsOf decodes the data of the JSON lines with a name.
func eventsOf[T any](t *testing.T, lines, name string) (out []T) {
	t.Helper()
	for line := range strings.Lines(lines) {
		var e struct {
			Event string
			Data  json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if e.Event != name {
			continue
		}
		var data T
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		out = append(out, data)
	}
	return out
}

var smallRun = []string{"--profile", "demo", "-c", "server.toml", "--set", "run.steps=2", "--set", "algorithm.groups=2",
	"--set", "algorithm.group_size=4", "--set", "env.vault.doors=2", "--set", "env.vault.levers=3",
	"--set", "eval.every=0", "--set", "eval.final_episodes=2", "--set", "rollout.max_tokens=32",
	"--set", "reflection.max_tokens=64", "--set", "env.vault.train_variations=2"}

// An episode that is tried again sends the server what the run sent, request for
// request and id for id, and the server answers the same. This holds for episodes
// with and without tips, of the base model and of a trained version, on each server.
func TestTrySendsWhatARunSends(t *testing.T) {
	f := func(backend, keys, address string, args ...string) {
		t.Run(backend, func(t *testing.T) {
			var wire recorder
			fakeWorld(t)
			useServer(t, fmt.Sprintf("[sampler]\nbackend = %q\nserved_model_name = \"tiny\"\n[sampler.%s]\n%s\n", backend,
				backend, fmt.Sprintf(keys, wire.before(t, address))))
			empo2(t, 0, append(append([]string{"run"}, smallRun...), args...)...)
			trySendsAgain(t, &wire)
		})
	}
	v, s := fakeserver.NewVLLM(scripted()), fakeserver.NewSGLang(scripted())
	o, a := fakeserver.NewOllama(scripted()), fakeserver.NewOpenAI(scripted())
	for _, server := range []interface{ Close() }{v, s, o, a} {
		t.Cleanup(server.Close)
	}
	f("vllm", "urls = [%q]", v.URL)
	f("sglang", "urls = [%q]", s.URL)
	f("ollama", "url = %q", o.URL)
	f("openai", "url = \"%s/v1\"", a.URL, "--set", "algorithm.name=adapt")
}

// trySendsAgain repeats episodes of the run.
func trySendsAgain(t *testing.T, wire *recorder) {
	t.Helper()
	sent, turns, tips := wire.take(), 0, 0
	for _, place := range []string{"1/0/0", "1/1/3", "2/0/1", "2/0/2", "2/1/0", "2/1/2"} {
		text, _ := empo2(t, 0, "try", "vault", "--like", place, "-k", "1", "--turns", "0", "--json")
		replies := eventsOf[triedReply](t, text, "reply")
		if len(replies) != 1 {
			t.Fatalf("%s: %d replies", place, len(replies))
		}
		shown, _ := empo2(t, 0, "show", "vault", place, "--json")
		episode := eventsOf[struct {
			Return     float64
			Trajectory struct {
				Turns []struct {
					IDs    []int32
					Action string
					Tips   []any
				}
			}
		}](t, shown, "episode")[0]
		stored := episode.Trajectory.Turns
		if len(replies[0].Turns) != len(stored) || replies[0].Return != episode.Return {
			t.Fatalf("%s: %d turns, return %g; the run had %d, %g", place, len(replies[0].Turns), replies[0].Return,
				len(stored), episode.Return)
		}
		again := wire.take()
		for i, turn := range replies[0].Turns {
			tips += len(stored[i].Tips)
			if diff := cmp.Diff(stored[i].IDs, turn.IDs, cmpopts.EquateEmpty()); diff != "" || stored[i].Action != turn.Action {
				t.Errorf("%s, turn %d: %q in place of %q: %s", place, i, turn.Action, stored[i].Action, diff)
			}
			if seed := strconv.FormatInt(int64(sampler.Seed(replies[0].Seed, uint64(i))&math.MaxInt64), 10); again[seed] != nil {
				checkShownPrompt(t, place, again[seed], turn.PromptIDs)
			}
		}
		turns += sameRequests(t, place, sent, again)
	}
	if turns < 5 || tips == 0 {
		t.Errorf("only %d requests were compared, %d tips", turns, tips)
	}
}

// checkShownPrompt compares the ids that try shows with those on the wire, if the server
// takes ids.
func checkShownPrompt(t *testing.T, place string, sent map[string]any, shown []int32) {
	t.Helper()
	ids, ok := cmpValue(sent["prompt"], sent["input_ids"]).([]any)
	if !ok {
		return
	}
	got := make([]string, len(shown))
	for i, id := range shown {
		got[i] = strconv.Itoa(int(id))
	}
	want := make([]string, len(ids))
	for i, id := range ids {
		want[i] = fmt.Sprint(id)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: try shows another prompt than it sent: %s", place, diff)
	}
}

// cmpValue returns the first value that is not nil.
func cmpValue(values ...any) any {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

// The first prompt of a task is that of the run, without and with tips, whatever the
// seed.
func TestTryShowsThePromptOfARun(t *testing.T) {
	w := fakeWorld(t)
	empo2(t, 0, append([]string{"run"}, smallRun...)...)
	var sent [][]int32
	for _, r := range w.take() {
		sent = append(sent, r.Prompt)
	}
	text, _ := empo2(t, 0, "try", "vault", "-k", "2", "--seed", "77", "--json")
	replies := eventsOf[triedReply](t, text, "reply")
	if len(replies) != 2 || len(replies[0].Turns) != 1 || replies[0].Seed == replies[1].Seed {
		t.Fatalf("%+v", replies)
	}
	known := slices.ContainsFunc(sent, func(ids []int32) bool { return slices.Equal(ids, replies[0].Turns[0].PromptIDs) })
	if !known {
		t.Errorf("the run never sent %d", replies[0].Turns[0].PromptIDs)
	}
	if _, stderr := empo2(t, exitUsage, "try", "vault@9"); !strings.Contains(stderr, "the newest version is ") {
		t.Error(stderr)
	}
}
