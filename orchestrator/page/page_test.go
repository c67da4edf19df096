package page

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// recorded writes a run of two steps into a folder, and leaves a third step open.
func recorded(t testing.TB, dir string) recording {
	w := record(t, dir)
	writer := played(1, 0, 0, "a", 0)
	writer.Tip = "pull <b>left</b>"
	w.add("", orchestrator.OnPolicy, writer)
	cut := played(1, 0, 1, "a", 1)
	cut.Turns[0].Finish = sampler.FinishLength
	w.add("", orchestrator.OnPolicy, cut)
	w.commit(orchestrator.StepMetrics{Step: 1, Version: 1, Episodes: 2,
		Free:    orchestrator.EpisodeStats{N: 2, Return: 0.5, Success: 0.5},
		Replies: orchestrator.Replies{N: 2, Cut: 1, Tokens: 4, TipTokens: 3},
		Stops:   map[rollout.StopReason]int{rollout.StopTerminated: 2},
		Groups:  1, Trained: 4, KLBase: 0.25, Trainer: orchestrator.TrainerUsage{RowTokens: 10},
		Seconds: orchestrator.Seconds{Sample: 1, Train: 2, Total: 4},
		Phases:  []orchestrator.PhaseRecord{{Name: "sampling", Seconds: 0.75}, {Name: "reflection", Seconds: 0.25}},
	}, ledger.Estimate{Group: 0, Episode: 0, Advantage: -0.5, Tokens: 2, Logprobs: []float32{-1, -0.5}})
	tip := prompt.Tip{ID: 1, Text: "pull <b>left</b>", Author: "1/0/0"}
	w.add("", orchestrator.OffPolicy, showing(played(2, 0, 0, "a", 1), tip))
	w.add("", orchestrator.OnPolicy, played(2, 0, 1, "a", 0))
	failed := played(2, 1, 0, "b", 0)
	failed.Stop, failed.Err = rollout.StopFailed, "the server is down"
	w.add(ledger.KindFailed, orchestrator.OnPolicy, failed)
	w.commit(orchestrator.StepMetrics{Step: 2, Version: 2, Episodes: 5, Failed: 1,
		Stops:   map[rollout.StopReason]int{rollout.StopTerminated: 2, rollout.StopFailed: 1},
		Tips:    orchestrator.EpisodeStats{N: 1, Return: 1, Success: 1},
		Trainer: orchestrator.TrainerUsage{RowTokens: 5}, Seconds: orchestrator.Seconds{Total: 2},
	}, ledger.Estimate{Group: 0, Episode: 0, Advantage: 0.5, Tokens: 2, Logprobs: []float32{-6, -0.5}})
	w.evaluate(orchestrator.Evaluation{Kind: "eval", Step: 2, Version: 2, Episodes: 10, Success: 0.5, Score: 50,
		Seconds: 7, TrainEpisodes: 5, TrainSeconds: 6})
	if err := w.SaveConfig(context.Background(), "[run]\nsteps = 4\n"); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestNowAndSeries(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "group", "one")
	recorded(t, dir)
	writeStatus(t, dir, `,"phase":{"name":"sampling","step":3,"of":4,"done":1,"total":8,"unit":"episodes","eta_s":3.5,
		"beside":{"name":"sampling","step":4,"done":2,"total":8,"unit":"episodes"}},
		"inflight":[{"what":"trainer","detail":"forward"}]`)
	s := serve(t, Options{Roots: []string{root}})

	list := answered[runsAnswer](t, s.URL+"/api/runs")
	if len(list.Runs) != 1 || list.Runs[0].Name != "group/one" || !list.Runs[0].Live || list.Runs[0].Episodes != 4 ||
		list.Runs[0].Failed != 1 || list.Runs[0].Success != 0.5 {
		t.Fatalf("%+v", list)
	}
	run := s.URL + "/api/runs/group%2Fone/"
	now := answered[nowAnswer](t, run+"now")
	if now.Phase.Beside.Text() != "step 4: sampling 2 of 8 episodes" {
		t.Errorf("beside the phase: %+v", now.Phase.Beside)
	}
	if !now.Live || now.Phase.Name != "sampling" || *now.Phase.ETA != 3.5 || now.ETA != 6 || now.Overview.Steps != 2 ||
		now.InFlight[0].Detail != "forward" {
		t.Errorf("%+v", now)
	}
	tiles := map[string]tile{}
	for _, tile := range now.Tiles {
		tiles[tile.Key] = tile
	}
	if s := tiles["success_without"]; s.Value != 0.5 || s.N != 10 || s.Low > 0.25 || s.High < 0.75 {
		t.Errorf("success without tips: %+v", s)
	}
	if s := tiles["cut"]; s.Value != 0.5 || s.N != 2 {
		t.Errorf("cut: %+v", s)
	}
	failed := func(h health) bool {
		return h.Level == "warning" && strings.HasPrefix(h.Text, "1 of 3 episodes failed: ")
	}
	if !slices.ContainsFunc(now.Health, failed) {
		t.Errorf("an episode failed, and all is well: %+v", now.Health)
	}
	series := answered[struct {
		X struct {
			Step                      []int64
			Episodes, Tokens, Seconds []float64
		}
		Evaluations []evaluation
		Lines       map[string][]*float64
	}](t, run+"series")
	if fmt.Sprint(series.X.Step, series.X.Episodes, series.X.Tokens, series.X.Seconds) !=
		"[1 2] [2 5] [10 15] [4 6]" {
		t.Errorf("%+v", series.X)
	}
	if kl := series.Lines["kl"]; *kl[0] != 0.25 || kl[1] != nil {
		t.Errorf("the KL of a step that trained nothing is known: %v", kl)
	}
	for name, want := range map[string]float64{"seconds_sampling": 0.75, "seconds_reflection": 0.25, "seconds_training": 2,
		"tokens_sampling": 4, "tokens_reflection": 3, "row_tokens": 10} {
		if got := series.Lines[name][0]; got == nil || *got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if idle := series.Lines["idle_server"][0]; idle == nil || *idle != 0.75 || series.Lines["staleness"][0] != nil {
		t.Errorf("idle share %v, staleness %v of a step in turn", idle, series.Lines["staleness"])
	}
	if took := series.Lines["seconds_evaluation"]; took[0] != nil || *took[1] != 7 {
		t.Errorf("the evaluation after step 2 took %v", took)
	}
	if e := series.Evaluations[0]; e.Rate != 0.5 || e.N != 10 || e.Mean != 50 || e.Episodes != 5 || e.Low >= 0.5 {
		t.Errorf("%+v", e)
	}
}

func TestEpisodesAreFiltered(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	recorded(t, dir)
	run := serve(t, Options{Roots: []string{dir}}).URL + "/api/runs/one/"
	f := func(query, want string, total int) {
		t.Helper()
		got := answered[struct {
			Rows  []struct{ Place string }
			Next  string
			Total int
		}](t, run+"episodes?"+query)
		var places []string
		for _, r := range got.Rows {
			places = append(places, r.Place)
		}
		if strings.Join(places, " ") != want || got.Total != total {
			t.Errorf("%s: %v of %d, want %s of %d", query, places, got.Total, want, total)
		}
	}
	f("", "2/0/0 2/0/1 1/0/0 1/0/1", 4)
	f("kind=training&step=1", "1/0/0 1/0/1", 2)
	f("step=2/0", "2/0/0 2/0/1", 2)
	f("mode=off_policy", "2/0/0", 1)
	f("outcome=success", "2/0/0 1/0/1", 2)
	f("finish=cut", "1/0/1", 1)
	f("finish=tips", "2/0/0", 1)
	f("task=b", "", 0)
	f("kind=failed", "2/1/0", 1)
	f("limit=1&cursor=2/0/1", "1/0/0", 4)
	f("text=PULL+%3Cb", "2/0/0 1/0/0", 4)
	f("text=observation", "", 4) // the name of a field is no text
	tips := answered[struct{ Tips []struct{ ID, Text string } }](t, run+"tips")
	if len(tips.Tips) != 1 || tips.Tips[0].Text != "pull <b>left</b>" {
		t.Fatalf("%+v", tips)
	}
	f("tip="+tips.Tips[0].ID, "2/0/0 1/0/0", 2)
	for _, bad := range []string{"step=x", "limit=0", "limit=501", "cursor=1", "outcome=maybe", "tip=zz", "version=-1",
		"text=" + strings.Repeat("x", 201)} {
		if status, body := get(t, run+"episodes?"+bad); status != http.StatusBadRequest {
			t.Errorf("%s: status %d, %s", bad, status, body)
		}
	}
}

func TestAnEpisodeHasItsTokensTipsAndSiblings(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	if err := recorded(t, dir).SavePieces(t.Context(), map[int32]string{7: "<7>"}); err != nil {
		t.Fatal(err)
	}
	run := serve(t, Options{Roots: []string{dir}}).URL + "/api/runs/one/"
	e := answered[episodeAnswer](t, run+"episode?kind=training&place=2%2F0%2F0")
	if e.Episode.Place != "2/0/0" || e.Episode.Advantage != 0.5 || e.Episode.TokensTrained != 2 || len(e.Turns) != 1 {
		t.Fatalf("%+v", e)
	}
	turn := e.Turns[0]
	var kinds []string
	for _, s := range turn.Spans {
		kinds = append(kinds, s.Kind)
		if s.Kind == "tip" && (s.Author == nil || *s.Author != "1/0/0" || s.Text != "pull <b>left</b>") {
			t.Errorf("%+v", s)
		}
	}
	if strings.Join(kinds, " ") != "template tip observation action" || !turn.Done {
		t.Errorf("%v, %+v", kinds, turn)
	}
	first := turn.Tokens[0]
	if first.ID != 7 || *first.Text != "<7>" || first.Logprob != -1 || first.TrainerLogprob != -6 || !first.Masked ||
		turn.Tokens[1].Masked || turn.Tokens[1].Ratio != 1 || turn.Tokens[1].Text != nil {
		t.Errorf("%+v", turn.Tokens)
	}
	if len(e.TipFree) != 1 || e.TipFree[0].Text != "a door" {
		t.Errorf("%+v", e.TipFree)
	}
	if len(e.Siblings) != 3 {
		t.Errorf("%+v", e.Siblings)
	}
	if e := answered[episodeAnswer](t, run+"episode?kind=failed&place=2/1/0"); e.Episode.Error != "the server is down" {
		t.Errorf("%+v", e.Episode)
	}
	if status, _ := get(t, run+"episode?place=9/0/0"); status != http.StatusNotFound {
		t.Errorf("an episode that does not exist: status %d", status)
	}
	if status, _ := get(t, run+"episode?place=1"); status != http.StatusBadRequest {
		t.Errorf("a step is no episode: status %d", status)
	}
}

// An event arrives when the run goes on, also after its process was killed and it was
// continued by another one.
func TestEventsFollowARun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	w := recorded(t, dir)
	writeStatus(t, dir, "")
	resp, err := http.Get(serve(t, Options{Roots: []string{dir}}).URL + "/api/events?run=one")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() (c change) {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &c); err != nil {
					t.Fatal(err)
				}
				return c
			}
		}
		t.Fatal(lines.Err())
		return c
	}
	if c := next(); c.Steps != 2 || c.Episodes != 4 || !c.Live {
		t.Fatalf("%+v", c)
	}
	w.add("", orchestrator.OnPolicy, played(3, 0, 0, "a", 1))
	for c := next(); c.Episodes != 5; c = next() { // a look may see only a part of the files changed
		t.Logf("%+v", c)
	}
	w.Close()
	w = record(t, dir)
	w.add("", orchestrator.OnPolicy, played(3, 0, 1, "a", 1))
	for c := next(); c.Episodes != 6; c = next() {
		t.Logf("%+v", c)
	}
	w.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() && lines.Text() != "event: gone" {
	}
	if lines.Err() != nil {
		t.Error(lines.Err())
	}
}

// A database that --from-step replaced is opened again.
func TestAReplacedDatabaseIsReadAgain(t *testing.T) {
	root := t.TempDir()
	dir, other := filepath.Join(root, "one"), filepath.Join(t.TempDir(), "other")
	recorded(t, dir).Close()
	run := serve(t, Options{Roots: []string{root}}).URL + "/api/runs/one/"
	if now := answered[nowAnswer](t, run+"now"); now.Overview.Steps != 2 {
		t.Fatalf("%+v", now.Overview)
	}
	record(t, other).Close()
	if err := os.Rename(filepath.Join(other, "run.db"), filepath.Join(dir, "run.db")); err != nil {
		t.Fatal(err)
	}
	if now := answered[nowAnswer](t, run+"now"); now.Overview.Steps != 0 || len(now.Tiles) == 0 {
		t.Errorf("%+v", now.Overview)
	}
}

func TestRunsAreCompared(t *testing.T) {
	root := t.TempDir()
	for i, name := range []string{"a,1", "b"} { // a comma in a name is encoded
		w := recorded(t, filepath.Join(root, name))
		for episode := range 4 {
			e := played(2, 0, episode, "a", float64(i*(episode%2)))
			w.add("eval", orchestrator.OnPolicy, e)
		}
		text := fmt.Sprintf("[run]\nsteps = %d\n", 4+i)
		err := w.SaveConfig(t.Context(), text)
		if i == 1 {
			err = errors.Join(err, w.SavePrompt(t.Context(), "sum", "other\n"), w.Event(t.Context(), 1, "prompt", "plain sum"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, Options{Roots: []string{root}})
	c := answered[compareAnswer](t, s.URL+"/api/compare?runs=a%2C1,b")
	if len(c.Runs) != 2 || len(c.Paired) != 2 {
		t.Fatalf("%+v", c)
	}
	if p := c.Paired[0]; p.Task != "" || p.A != "a,1" || p.B != "b" || p.Difference != 0.5 || p.N != 4 || *p.High < 0.5 ||
		p.AStep != 2 || p.BStep != 2 {
		t.Errorf("%+v", p)
	}
	if len(c.Config) != 1 || c.Config[0].Key != "run.steps" || *c.Config[0].Values["b"] != "5" {
		t.Errorf("%+v", c.Config)
	}
	if len(c.Prompts) != 1 || !strings.Contains(c.Prompts[0].Diff, "+other") {
		t.Errorf("%+v", c.Prompts)
	}
	for _, bad := range []string{"", "?runs=", "?runs=%zz"} {
		if status, _ := get(t, s.URL+"/api/compare"+bad); status != http.StatusBadRequest {
			t.Errorf("%q: status %d", bad, status)
		}
	}
	if status, _ := get(t, s.URL+"/api/compare?runs=c"); status != http.StatusNotFound {
		t.Errorf("an unknown run: status %d", status)
	}
}

func TestTheTableOfSteps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	recorded(t, dir)
	_, body := get(t, serve(t, Options{Roots: []string{dir}}).URL+"/api/runs/one/csv")
	rows := strings.Split(string(body), "\n")
	if !strings.HasPrefix(rows[0], "step,episodes,tokens,seconds,return_without,return_with") ||
		!strings.HasPrefix(rows[1], "1,2,10,4,0.5,,0.5,") || len(rows) != 4 {
		t.Errorf("%s", body)
	}
}

// The exported file has the answers under the paths for which the browser asks.
func TestExport(t *testing.T) {
	root := t.TempDir()
	recorded(t, filepath.Join(root, "one (1)"))
	recorded(t, filepath.Join(root, "two"))
	p := New(Options{Roots: []string{root}})
	defer p.Close()
	var b strings.Builder
	if err := p.Export(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(b.String(), `id="answers">`)
	text, _, _ = strings.Cut(text, "</script>")
	var answers map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &answers); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/api/runs", "/api/runs/one%20(1)/now", "/api/runs/one%20(1)/series",
		"/api/runs/two/tips", "/api/runs/two/episodes", "/api/runs/two/episode?kind=training&place=2%2F0%2F0",
		"/api/compare?runs=one%20(1),two"} {
		if answers[path] == nil {
			t.Errorf("the file has no %s", path)
		}
	}
	if strings.Contains(text, "<b>") {
		t.Error("a text of a run is markup")
	}
}

func TestStatesRecallTips(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	recorded(t, dir)
	recall := func(_ context.Context, r *view.Run, scope, state string) ([]Recalled, error) {
		return []Recalled{{Text: filepath.Base(r.Dir) + " " + scope + " " + state, Similarity: 0.5, Score: 1}}, nil
	}
	run := serve(t, Options{Roots: []string{dir}, Recall: recall}).URL + "/api/runs/one/recall"
	if a := answered[recallAnswer](t, run+"?text=a+door&task=s"); a.Tips[0].Text != "one s a door" {
		t.Errorf("%+v", a)
	}
	for _, bad := range []string{"", "?text=", "?text=" + strings.Repeat("x", maxState+1)} {
		if status, _ := get(t, run+bad); status < 400 || status >= 500 {
			t.Errorf("%.20q: status %d", bad, status)
		}
	}
}

func TestLongRunsHaveFewPoints(t *testing.T) {
	h := history{lines: make([][]float64, len(perStep))}
	for i := range 5000 {
		m := orchestrator.StepMetrics{Step: int64(i + 1), Episodes: i, NewTips: i}
		if i >= 9 && i < 12 { // unknown in a whole bucket
			m.Free.N = 0
		} else {
			m.Free = orchestrator.EpisodeStats{N: 1, Return: float64(i)}
		}
		h.add(m)
	}
	size := bucket(len(h.steps))
	steps, returns := lasts(h.steps, size), means(h.lines[0], size)
	if size != 3 || len(steps) != 1667 || len(returns) != len(steps) || steps[1666] != 5000 || steps[0] != 3 {
		t.Errorf("%d points of %d", len(steps), size)
	}
	if returns[0] != 1 || !math.IsNaN(returns[3]) || returns[4] != 13 || len(h.recent) != kept {
		t.Errorf("%v", returns[:5])
	}
	text, err := json.Marshal(returns[3:5])
	if string(text) != "[null,13]" || err != nil {
		t.Errorf("%s, %v", text, err)
	}
}

func TestTipsAreEdited(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	recorded(t, dir)
	var done []string
	o := Options{Roots: []string{dir}, Edit: func(_ context.Context, _, what string, tip ledger.TipKey) error {
		done = append(done, fmt.Sprintf("%s %x", what, tip[:]))
		return nil
	}}
	s := serve(t, o)
	post := func(what, body, header string) (int, string) {
		t.Helper()
		r, err := http.NewRequest("POST", s.URL+"/api/runs/one/tips/"+what, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Empo2", header)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	f := func(what, body, header string, want int, contains string) {
		t.Helper()
		if status, text := post(what, body, header); status != want || !strings.Contains(text, contains) {
			t.Errorf("%s %s: status %d, %s", what, body, status, text)
		}
	}
	const tip = `{"id":"0102030405"}`
	f("pin", tip, "page", 200, `{"ok":true}`)
	f("remove", tip, "page", 200, `{"ok":true}`)
	f("pin", tip, "", 403, "X-Empo2")
	f("sell", tip, "page", 404, "no such address")
	f("pin", `{"id":"01"}`, "page", 400, "id of a tip")
	f("pin", "x", "page", 400, "no JSON")
	writeStatus(t, dir, "")
	f("unpin", tip, "page", 409, "empo2 memory unpin one 0102030405")
	if strings.Join(done, ", ") != "pin 0102030405, remove 0102030405" {
		t.Errorf("%v", done)
	}
}
