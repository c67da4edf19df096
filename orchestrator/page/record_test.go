package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// A recording writes a run.
type recording struct {
	t testing.TB
	*ledger.Ledger
}

func record(t testing.TB, dir string) recording {
	t.Helper()
	l, err := ledger.Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return recording{t, l}
}

// played is an episode with one turn.
func played(step int64, group, episode int, task string, result float64) rollout.Trajectory {
	return rollout.Trajectory{
		Task: envs.Task{ID: task, Scope: "scope"}, Step: step, Group: group, Episode: episode,
		Turns: []rollout.Turn{{
			Prompt: []chat.Message{{Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: "a door"}}}},
			Action: "open it", IDs: []int32{7, 8}, Logprobs: sampler.Logprobs{-1, -0.5}, Finish: sampler.FinishStop,
			Reward: result, Similar: -1,
		}},
		Stop: rollout.StopTerminated, EnvReturn: result, Success: result > 0,
	}
}

// showing adds a tip to the prompt of the first turn.
func showing(e rollout.Trajectory, tip prompt.Tip) rollout.Trajectory {
	turn := &e.Turns[0]
	turn.Tips = append(turn.Tips, tip)
	turn.Prompt = []chat.Message{{Role: chat.RoleUser, Spans: []chat.Span{
		{Kind: chat.TipsSpan, Text: "Tips:\n- " + tip.Text}, {Kind: chat.StateSpan, Text: "a door"}}}}
	return e
}

func (r recording) add(kind string, mode orchestrator.Mode, e rollout.Trajectory) {
	r.t.Helper()
	p, err := rollout.Pack(e)
	if err != nil {
		r.t.Fatal(err)
	}
	stored := ledger.Episode{Kind: kind, Step: e.Step, Group: e.Group, Episode: e.Episode, Task: e.Task.ID,
		Mode: string(mode), Stop: string(e.Stop), EnvReturn: e.EnvReturn, Success: e.Success, At: "2026-01-02T03:04:05Z",
		Trajectory: p.JSON, Tokens: p.Tokens, Logprobs: p.Logprobs}
	if stored.Facts, err = orchestrator.FactsOf(stored); err == nil {
		err = r.AddEpisode(context.Background(), stored)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r recording) commit(m orchestrator.StepMetrics, estimates ...ledger.Estimate) {
	r.t.Helper()
	text, err := json.Marshal(m)
	if err == nil {
		err = errors.Join(r.SavePlan(context.Background(), m.Step, json.RawMessage(fmt.Sprintf(`{"step":%d}`, m.Step))),
			r.Commit(context.Background(), ledger.Step{Step: m.Step, Version: m.Version, Metrics: text, Estimates: estimates},
				nil, nil))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r recording) evaluate(e orchestrator.Evaluation) {
	r.t.Helper()
	text, err := json.Marshal(e)
	if err == nil {
		err = r.SaveEvaluation(context.Background(), e.Step, e.Kind, e.Version, text)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// writeStatus writes the status of a run that is running.
func writeStatus(t testing.TB, dir, fields string) {
	t.Helper()
	text := fmt.Sprintf(`{"pid":1,"started":%[1]q,"updated":%[1]q%[2]s}`, time.Now().Format(time.RFC3339Nano), fields)
	if err := os.WriteFile(filepath.Join(dir, "status.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve serves the page of folders.
func serve(t testing.TB, o Options) *httptest.Server {
	t.Helper()
	p := New(o)
	s := httptest.NewServer(p)
	t.Cleanup(func() {
		p.Close()
		s.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// get returns the status and the body of an answer.
func get(t testing.TB, url string) (int, []byte) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// answered decodes the answer of an address.
func answered[T any](t testing.TB, url string) (out T) {
	t.Helper()
	status, body := get(t, url)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d, %s", url, status, body)
	}
	if err := json.Unmarshal(body, &out); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return out
}
