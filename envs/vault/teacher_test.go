package vault

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
)

var statePattern = regexp.MustCompile(`^Levers: ([a-z, ]+)\. Door (\d) of (\d) is ([a-z]+)\.$`)

func TestLessons(t *testing.T) {
	c := testConfig()
	c.Doors, c.Levers = 4, 6
	f := mustOpen(t, c)
	guided, successes, tasks := 0, 0, map[string]bool{}
	for n := range uint64(300) {
		l, err := f.Lesson(t.Context(), 5, n)
		if err != nil {
			t.Fatal(err)
		}
		checkLesson(t, l)
		tasks[l.Task.ID] = true
		if l.Success {
			successes++
		}
		if slices.ContainsFunc(l.Turns, func(turn envs.LessonTurn) bool { return len(turn.Tips) > 0 }) {
			guided++
		}
	}
	if guided < 120 || guided > 230 || successes < 60 || successes > 260 || len(tasks) != 300 {
		t.Errorf("of 300 lessons %d show tips, %d succeed, %d houses", guided, successes, len(tasks))
	}
}

// checkLesson checks that the teacher never acts against a shown tip, and that its
// own tip says what happened.
func checkLesson(t *testing.T, l envs.Lesson) {
	t.Helper()
	shown := ""
	var facts []string
	for i, turn := range l.Turns {
		m := statePattern.FindStringSubmatch(turn.Observation.State)
		if m == nil {
			t.Fatalf("state %q", turn.Observation.State)
		}
		levers, door := strings.Split(m[1], ", "), m[4]
		if len(levers) < 3 || len(levers) > 6 || m[3] < "2" || m[3] > "4" || len(turn.Tips) > maxDoorTips {
			t.Errorf("%s: %q with %d tips", l.Task.ID, turn.Observation.State, len(turn.Tips))
		}
		shown += strings.ToLower(strings.Join(turn.Tips, " "))
		lever := strings.TrimPrefix(turn.Action, "pull ")
		if !slices.Contains(levers, lever) || strings.Contains(shown, "at "+door+" avoid "+lever) {
			t.Errorf("%s: %q at %q after the tips %q", l.Task.ID, turn.Action, turn.Observation.State, shown)
		}
		for _, other := range levers {
			if other != lever && strings.Contains(shown, "at "+door+" pull "+other) {
				t.Errorf("%s: %q although a tip says to pull %s", l.Task.ID, turn.Action, other)
			}
		}
		verdict := "pull"
		if i == len(l.Turns)-1 && !l.Success {
			verdict = "avoid"
		}
		facts = append(facts, "at "+door+" "+verdict+" "+lever)
	}
	if want := "A" + strings.Join(facts, ", ")[1:] + "."; l.Tip != want {
		t.Errorf("%s: tip %q, want %q", l.Task.ID, l.Tip, want)
	}
	if over := strings.Contains(l.Final.Feedback, "You are out"); over != l.Success || l.Success != (l.Score == 100) {
		t.Errorf("%s: success %v, score %v, %q", l.Task.ID, l.Success, l.Score, l.Final.Feedback)
	}
}

func TestALessonIsRepeatable(t *testing.T) {
	f := mustOpen(t, testConfig())
	first, err := f.Lesson(t.Context(), 1, 7)
	again, err2 := f.Lesson(t.Context(), 1, 7)
	if diff := cmp.Diff(first, again); diff != "" || err != nil || err2 != nil {
		t.Errorf("%v, %v:\n%s", err, err2, diff)
	}
	other, err := f.Lesson(t.Context(), 2, 7)
	if err != nil || cmp.Equal(first, other) {
		t.Errorf("another seed gives the same lesson (%v)", err)
	}
}
