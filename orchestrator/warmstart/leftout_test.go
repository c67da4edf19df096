package warmstart

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// refuse returns a trainer that refuses the rows of some lines.
func refuse(err error, lines ...int) *fakeTrainer {
	return &fakeTrainer{refuses: func(rows []trainerbridge.Row) error {
		for _, r := range rows {
			if slices.Contains(lines, int(r.Tokens[1])/10) {
				return err
			}
		}
		return nil
	}}
}

var (
	errGradient = &trainerbridge.RequestError{Op: "forward_backward", Category: trainerbridge.CategoryUser,
		Message: "the gradient is not finite"}
	errMemory = &trainerbridge.RequestError{Op: "forward_backward", Category: trainerbridge.CategoryUser,
		OutOfMemory: &trainerbridge.OutOfMemory{Tokens: 2}}
)

// A conversation that the trainer refuses costs only itself: the training ends with
// the same adapter whenever checkpoints are written, and also after a crash.
func TestRefusedConversationsAreLeftOut(t *testing.T) {
	run := func(training *Training) Result {
		t.Helper()
		r, err := training.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	often := run(newTraining(t.TempDir(), refuse(errGradient, 3, 7)))
	if !slices.Equal(often.LeftOut, []int{3, 7}) || len(often.History) != 13 {
		t.Fatalf("lines %v are left out, history %+v", often.LeftOut, often.History)
	}
	var steps int
	for _, s := range often.History {
		steps += s.LeftOut
	}
	if steps == 0 {
		t.Error("no step says that a conversation was left out")
	}
	whole := run(newTraining(t.TempDir(), &fakeTrainer{}))
	if adapterOf(whole) == adapterOf(often) {
		t.Error("the refused conversations were trained")
	}
	rarely := newTraining(t.TempDir(), refuse(errGradient, 3, 7))
	rarely.SaveEvery = time.Hour
	if r := run(rarely); adapterOf(r) != adapterOf(often) || !sameHistory(r.History, often.History) {
		t.Errorf("with rare checkpoints: adapter %+v, want %+v", r.Adapter, often.Adapter)
	}
	dir := t.TempDir()
	f := refuse(errGradient, 3, 7)
	f.failAt, f.failure = 16, errCrash
	crash(t, newTraining(dir, f))
	if r := run(newTraining(dir, refuse(errGradient, 3, 7))); adapterOf(r) != adapterOf(often) {
		t.Errorf("after a crash: adapter %+v, want %+v", r.Adapter, often.Adapter)
	}
}

// The error of a row that does not fit into memory says which conversations these
// are.
func TestConversationsBeyondMemoryAreLeftOut(t *testing.T) {
	training := newTraining(t.TempDir(), refuse(errMemory, 4))
	for i := range training.Examples {
		training.Examples[i].Longest = 1
	}
	training.Examples[3].Longest = 2
	r, err := training.Run(t.Context())
	if err != nil || !slices.Equal(r.LeftOut, []int{4}) {
		t.Errorf("lines %v are left out, %v", r.LeftOut, err)
	}
}

// A held-out conversation that is refused is left out of the held-out loss.
func TestRefusedHeldOutConversations(t *testing.T) {
	training := newTraining(t.TempDir(), &fakeTrainer{})
	_, held := split(training.Examples, training.Config.Holdout, training.Config.Seed)
	training = newTraining(t.TempDir(), refuse(errMemory, held[0].Line))
	r, err := training.Run(t.Context())
	if err != nil || !slices.Equal(r.LeftOut, []int{held[0].Line}) || r.History[0].HeldOut != 2 {
		t.Errorf("lines %v are left out, history %+v, %v", r.LeftOut, r.History, err)
	}
}

// If the trainer refuses everything, the training ends with a reason and a remedy,
// and the same command can go on.
func TestTooManyRefusalsEndTheTraining(t *testing.T) {
	dir := t.TempDir()
	f := &fakeTrainer{}
	f.refuses = func([]trainerbridge.Row) error {
		if f.calls > 4 {
			return errGradient
		}
		return nil
	}
	_, err := newTraining(dir, f).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the gradient is not finite\n  hint: ") ||
		!strings.Contains(err.Error(), "--learning-rate") {
		t.Fatal(err)
	}
	again := &fakeTrainer{}
	if _, err := newTraining(dir, again).Run(t.Context()); err != nil || again.restored[0] != 7 {
		t.Errorf("continued from %v, %v", again.restored, err)
	}
}

// A trainer that is killed twice in a step for lack of memory is spared the longest
// conversation.
func TestKillsForLackOfMemory(t *testing.T) {
	f := refuse(&trainerbridge.ExitError{State: "signal: killed", OutOfMemory: true}, 6)
	training := newTraining(t.TempDir(), f)
	training.Examples[5].Longest = 9
	training.Budget.Restarts = 3
	r, err := training.Run(t.Context())
	if err != nil || !slices.Equal(r.LeftOut, []int{6}) {
		t.Errorf("lines %v are left out, %v", r.LeftOut, err)
	}
}

// A training whose newest checkpoint is damaged goes on from the one before and ends
// with the same adapter. Nothing is deleted.
func TestDamagedCheckpoints(t *testing.T) {
	whole, err := newTraining(t.TempDir(), &fakeTrainer{}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := func(name string, from int, damage func(dir string) error) {
		t.Helper()
		dir := t.TempDir()
		crash(t, newTraining(dir, &fakeTrainer{failAt: 7, failure: errCrash}))
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		again := &fakeTrainer{}
		r, err := newTraining(dir, again).Run(t.Context())
		if err != nil || again.restored[0] != from || adapterOf(r) != adapterOf(whole) {
			t.Errorf("%s: continued from %v, adapter %+v, want %+v: %v", name, again.restored, r.Adapter, whole.Adapter, err)
		}
		aside, _ := filepath.Glob(filepath.Join(dir, "damaged", "*"))
		if want := min(6-from, keptCheckpoints); len(aside) != want {
			t.Errorf("%s: %v are set aside, want %d", name, aside, want)
		}
	}
	file := func(step, name string) func(string) string {
		return func(dir string) string { return filepath.Join(dir, "checkpoints", step, name) }
	}
	weight, meta := file("000006", "weight"), file("000006", "meta.json")
	f("flipped", 5, func(dir string) error { return os.WriteFile(weight(dir), []byte("4607182418800017409"), 0o644) })
	f("cut", 5, func(dir string) error { return os.Truncate(weight(dir), 1) })
	f("removed", 5, func(dir string) error { return os.Remove(weight(dir)) })
	f("no manifest", 5, func(dir string) error { return os.Remove(meta(dir)) })
	f("an empty manifest", 5, func(dir string) error { return os.Truncate(meta(dir), 0) })
	f("both", 0, func(dir string) error {
		return errors.Join(os.Remove(weight(dir)), os.Remove(file("000005", "weight")(dir)))
	})
	f("history", 6, func(dir string) error { return os.Truncate(filepath.Join(dir, historyFile), 5) })
	f("history removed", 6, func(dir string) error { return os.Remove(filepath.Join(dir, historyFile)) })
	f("left out", 6, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, leftOutFile), []byte("[1"), 0o644)
	})
}
