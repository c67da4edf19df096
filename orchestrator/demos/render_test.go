package demos

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// lessons is a teacher with one lesson.
type lessons struct{ only envs.Lesson }

func (l lessons) Lesson(context.Context, uint64, uint64) (envs.Lesson, error) { return l.only, nil }

var lesson = envs.Lesson{
	Task: envs.Task{ID: "t", Instruction: "Play.", Reflection: "Write a tip."},
	Turns: []envs.LessonTurn{
		{Observation: envs.Observation{State: "Door 1."}, Tips: []string{"Pull a."}, Action: "a"},
		{
			Observation: envs.Observation{Feedback: "Open.", State: "Door 2."},
			Tips:        []string{"Pull b.", "Wait."}, Action: "b",
		},
	},
	Final: envs.Observation{Feedback: "Out."}, Score: 100, Success: true, Tip: "A, then b.",
}

func TestEveryFourthLessonHidesItsTips(t *testing.T) {
	r := Renderer{Env: "e", Template: prompt.Default()}
	got, err := r.Lessons(t.Context(), lessons{lesson}, 0, 4)
	if err != nil {
		t.Fatal(err)
	}
	source := Source{Env: "e", Task: "t", Score: 100, Success: true}
	with, without := source, source
	with.Tips, without.Reflection = true, true
	want := []Demonstration{
		{Source: &with, Messages: []Message{
			{Role: "system", Content: "Play."},
			{Role: "user", Content: "Tips:\n- Pull a.\nDoor 1."}, {Role: "assistant", Content: "a"},
			{Role: "user", Content: "Open.\nTips:\n- Pull b.\n- Wait.\nDoor 2."}, {Role: "assistant", Content: "b"},
		}},
		{Source: &without, Messages: []Message{
			{Role: "system", Content: "Play."},
			{Role: "user", Content: "Door 1."}, {Role: "assistant", Content: "a"},
			{Role: "user", Content: "Open.\nDoor 2."}, {Role: "assistant", Content: "b"},
			{Role: "user", Content: "Out.\nWrite a tip."}, {Role: "assistant", Content: "A, then b."},
		}},
	}
	want = []Demonstration{want[0], want[0], want[0], want[1]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// If prompts show only the newest tips, every turn is a demonstration of its own.
func TestLessonsWithLatestTips(t *testing.T) {
	r, zero := Renderer{Env: "e", Template: prompt.Default(), Keep: rollout.KeepLatest}, 0
	got, err := r.Lessons(t.Context(), lessons{lesson}, 0, 1)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d demonstrations, %v", len(got), err)
	}
	want := []Message{
		{Role: "system", Content: "Play."},
		{Role: "user", Content: "Door 1."}, {Role: "assistant", Content: "a", Weight: &zero},
		{Role: "user", Content: "Open.\nTips:\n- Pull b.\n- Wait.\nDoor 2."}, {Role: "assistant", Content: "b"},
	}
	if diff := cmp.Diff(want, got[1].Messages); diff != "" {
		t.Error(diff)
	}
}

// solved is an environment of n doors that knows its solutions.
type solved struct {
	envs.Family
	doors int
}

func (s solved) Open(context.Context, envs.Task) (envs.Episode, error) {
	return envs.Guard(&counting{left: s.doors}), nil
}

func (s solved) Solve(_ context.Context, t envs.Task) ([]string, error) {
	return map[string][]string{
		"good": {"go", "go", "go"}, "bad": {"go", "fail"}, "long": {"go", "go", "go", "go", "go"},
	}[t.ID], nil
}

type counting struct{ left int }

func (c *counting) Reset(context.Context) (envs.Observation, error) {
	return envs.Observation{State: "start"}, nil
}

func (c *counting) Step(_ context.Context, action string) (envs.Step, error) {
	c.left--
	if action == "fail" {
		return envs.Step{Observation: envs.Observation{Feedback: "no"}, Terminated: true}, nil
	}
	done := c.left == 0
	return envs.Step{Observation: envs.Observation{Feedback: "ok"}, Success: done, Terminated: done}, nil
}

func (c *counting) Close() error { return nil }

func TestSolutions(t *testing.T) {
	r := Renderer{Env: "e", Template: prompt.Default()}
	f := func(doors int, want Left, tasks ...string) {
		t.Helper()
		s := Solutions{Family: solved{doors: doors}, MaxTurns: 4}
		for _, id := range tasks {
			s.Tasks = append(s.Tasks, envs.Task{ID: id})
		}
		all, left, err := r.Solutions(t.Context(), s)
		if err != nil || left != want || len(all) != len(tasks)-want.Long-want.Unsolved {
			t.Errorf("%v: %d demonstrations, left %+v, %v", tasks, len(all), left, err)
		}
		if len(all) == 1 && len(all[0].Messages) != 6 {
			t.Errorf("messages %+v", all[0].Messages)
		}
	}
	f(3, Left{Unsolved: 1}, "good", "bad")
	f(5, Left{Long: 1}, "long")
}
