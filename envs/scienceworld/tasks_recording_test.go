package scienceworld

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/google/go-cmp/cmp"
)

type recordedTask struct {
	Index            int    `json:"index"`
	Task             string `json:"task"`
	TaskID           string `json:"task_id"`
	Topic            string `json:"topic"`
	PaperName        string `json:"paper_name"`
	MaxVariations    int    `json:"max_variations"`
	Train            []int  `json:"train"`
	Dev              []int  `json:"dev"`
	Test             []int  `json:"test"`
	Description      string `json:"task_description_variation_0"`
	BySimplification map[string]struct {
		Used    string   `json:"simplifications_used"`
		Actions []string `json:"possible_actions"`
	} `json:"by_simplification"`
}

// The names, splits, templates and task texts are equal to the Python package's.
func TestTasksRecording(t *testing.T) {
	path := recordings(t, "tasks.jsonl.gz")
	f := openLive(t, live(t))
	eachRecording(t, path, "task", func(want recordedTask) {
		for _, name := range []string{want.Task, want.TaskID, want.Topic + " " + want.PaperName} {
			if got := inferTask(name); got != want.Task {
				t.Errorf("%q is %q, want %q", name, got, want.Task)
			}
		}
		compareTask(t, f.catalogue, want)
		err := f.pool.with(t.Context(), func(sim *simulator) error { return compareTemplates(t, sim, want) })
		if err != nil {
			t.Fatal(err)
		}
	})
	got := 0
	for _, variants := range f.catalogue.splits {
		got += len(variants)
	}
	if got != 7207 {
		t.Errorf("%d variations, want 7207", got)
	}
}

func compareTemplates(t *testing.T, sim *simulator, want recordedTask) error {
	t.Helper()
	for simplification, by := range want.BySimplification {
		if err := sim.load(t.Context(), want.Task, 0, simplification); err != nil {
			return err
		}
		used, err := callAs[string](t.Context(), sim, "getSimplificationsUsed")
		if err != nil {
			return err
		}
		actions, err := sim.strings(t.Context(), "getPossibleActions")
		if err != nil {
			return err
		}
		if d := cmp.Diff([]any{by.Used, by.Actions}, []any{used, actions}); d != "" {
			t.Errorf("%s, %q: %s", want.Task, simplification, d)
		}
	}
	description, err := callAs[string](t.Context(), sim, "getTaskDescription")
	if err == nil && description != want.Description {
		t.Errorf("%s: text %q, want %q", want.Task, description, want.Description)
	}
	return err
}

func compareTask(t *testing.T, cat *catalogue, want recordedTask) {
	t.Helper()
	if got := cat.variations[want.Task]; got != want.MaxVariations {
		t.Errorf("%s has %d variations, want %d", want.Task, got, want.MaxVariations)
	}
	if d := cmp.Diff(want.BySimplification["easy"].Actions, cat.templates[want.Task]); d != "" {
		t.Errorf("%s: templates: %s", want.Task, d)
	}
	splits := map[envs.Split][]int{envs.Train: want.Train, envs.Eval: want.Dev, envs.Test: want.Test}
	for split, variations := range splits {
		var got []int
		for _, v := range cat.splits[split] {
			if v.task == want.Task {
				got = append(got, v.variation)
			}
		}
		if d := cmp.Diff(variations, got); d != "" {
			t.Errorf("%s, %s: %s", want.Task, split, d)
		}
	}
}

// Names of tasks are normalised like in the Python package.
func TestInferTaskRecording(t *testing.T) {
	type recorded struct{ Input, Output string }
	eachRecording(t, recordings(t, "api.jsonl.gz"), "infer_task", func(want recorded) {
		if got := inferTask(want.Input); got != want.Output {
			t.Errorf("%q is %q, want %q", want.Input, got, want.Output)
		}
	})
}

type recordedLoad struct {
	Args  []json.RawMessage
	Load  struct{ Exception, Message string }
	Reset struct {
		OK *struct {
			Obs, Look, Inv, TaskDesc string
			Score, Moves             int
			ValidN                   int      `json:"valid_n"`
			Valid                    []string `json:"valid"`
		}
	}
	StepWait struct {
		OK *struct {
			Obs                  string
			Score, Reward, Moves int
			Done                 bool
		}
	} `json:"step_wait1"`
	Raw string `json:"raw_load_return"`
}

// Tasks that the Python package refuses are refused. Tasks that it loads give the same
// answers. Tasks that it loads as a world of error texts are refused.
func TestLoadRecording(t *testing.T) {
	path := recordings(t, "api.jsonl.gz")
	f := openLive(t, live(t))
	eachRecording(t, path, "load", func(want recordedLoad) {
		var task, simplification string
		var variation int
		for i, to := range []any{&task, &variation, &simplification} {
			if err := json.Unmarshal(want.Args[i], to); err != nil {
				return // arguments of other types cannot be given in Go
			}
		}
		refused := checkLoad(f, task, variation, simplification)
		loaded := want.Load.Exception == "" && want.Raw == "" && want.Reset.OK != nil
		if !loaded || strings.HasPrefix(want.Reset.OK.Obs, "ERROR") {
			if refused == nil {
				t.Errorf("%s is not refused", want.Args)
			}
			return
		}
		if refused != nil {
			t.Errorf("%s: %v", want.Args, refused)
			return
		}
		compareLoad(t, f, want, inferTask(task), variation, simplification)
	})
}

// checkLoad does the checks of Open.
func checkLoad(f *Family, task string, variation int, simplification string) error {
	known := make([]string, 0, len(taskNames))
	for _, n := range taskNames {
		known = append(known, n.name)
	}
	names, err := resolveTasks([]string{task}, known)
	if err != nil {
		return err
	}
	if err := checkSimplifications(simplification); err != nil {
		return err
	}
	if err := checkElectrical(names[0], simplification); err != nil {
		return err
	}
	return f.catalogue.check(variant{names[0], variation})
}

func compareLoad(t *testing.T, f *Family, want recordedLoad, task string, variation int, simplification string) {
	t.Helper()
	err := f.pool.with(t.Context(), func(sim *simulator) error {
		if err := sim.load(t.Context(), task, variation, simplification); err != nil {
			return err
		}
		first, err := sim.restart(t.Context())
		if err != nil {
			return err
		}
		w := want.Reset.OK
		recorded := []any{w.Obs, w.Look, w.Inv, w.TaskDesc, w.Score, w.Moves, w.ValidN}
		replayed := []any{first.observation, first.look, first.inventory, first.taskDesc, first.score, first.moves,
			len(first.valid)}
		if d := cmp.Diff(recorded, replayed); d != "" {
			t.Errorf("%s: reset: %s", want.Args, d)
		}
		rec, err := sim.act(t.Context(), "wait1")
		if err != nil {
			return err
		}
		s := want.StepWait.OK
		if d := cmp.Diff([]any{s.Obs, s.Score, s.Reward, s.Moves},
			[]any{rec.observation, rec.score, rec.score - first.score, rec.moves}); d != "" {
			t.Errorf("%s: wait1: %s", want.Args, d)
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", want.Args, err)
	}
}
