package orchestrator

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// An adapter names the folder of the model. If that has moved, or empo2 was updated, a
// continued run keeps the adapter that was committed. A missing one is written again.
func TestACommittedAdapterIsKept(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Sampler.Backend = "vllm" }))
	w.config.Run.Steps = 1
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	exports := w.trainer.count("export 1")
	w.config.Run.Steps, w.trainer.model = 2, "/moved"
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := w.trainer.count("export 1"); got != exports {
		t.Errorf("version 1 was exported %d times more", got-exports)
	}
	if err := os.RemoveAll(ledger.AdapterDir(w.dir, 2)); err != nil {
		t.Fatal(err)
	}
	w.config.Run.Steps = 3
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if w.trainer.count("export 2") != 2 {
		t.Errorf("%q: the missing adapter was not written again", w.trainer.calls)
	}
}

// A server that needs another format gets an adapter that is written again. What differs
// from the commit is refused.
func TestAnAdapterOfAnotherFormatIsWrittenAgain(t *testing.T) {
	w := newWorld(t, small()) // the server loads GGUF, which the trainer does not write
	w.config.Run.Steps = 1
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.config.Run.Steps, w.trainer.model = 2, "/moved"
	if _, err := w.run(context.Background()); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("%v", err)
	}
}
