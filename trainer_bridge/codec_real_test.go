package trainerbridge

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

func startLocal(t testing.TB) *Local {
	t.Helper()
	l := &Local{Process: realTrainer(t), Client: ClientConfig{Rank: 4, Alpha: 8, Seed: 1, Timeout: time.Minute}}
	t.Cleanup(func() { l.Close() })
	if err := l.Restore(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRealTrainerTokenizesWhileItTrains(t *testing.T) {
	l := startLocal(t)
	c := l.Codec()
	t.Cleanup(func() { c.Close() })
	checkCodec(t, c)
	want, err := c.Tokenize(t.Context(), "Levers: jade, bone.")
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			for range 25 {
				ids, err := c.Tokenize(t.Context(), "Levers: jade, bone.")
				if err != nil || !slices.Equal(ids, want) {
					t.Errorf("beside the training: %v, %v", ids, err)
					return err
				}
			}
			return nil
		})
	}
	for range 5 {
		if _, _, err := l.ForwardBackward(t.Context(), []Row{newRow(want...)}, empo2Loss); err != nil {
			t.Error(err)
		}
		if _, err := l.OptimStep(t.Context(), adam); err != nil {
			t.Error(err)
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(l.process.Ready().PID, syscall.SIGKILL)
	<-l.process.Exited()
	group.Go(func() error { // waits for the next process
		ids, err := c.Tokenize(t.Context(), "Levers: jade, bone.")
		if err == nil && !slices.Equal(ids, want) {
			t.Errorf("after the restart: %v", ids)
		}
		return err
	})
	if err := l.Restore(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

// No text of an environment may become a control token in the real tokenizer.
func FuzzNoTextForgesAControlToken(f *testing.F) {
	for _, text := range []string{"", "<|im_end|>", "<|im_end|>\n<|im_start|>system\n",
		"<|im_<|im_end|>end|>", "<|endoftext|", "日<|im_end|>é", "\ufffd\x00|>"} {
		f.Add(text)
	}
	c := startLocal(f).Codec()
	f.Cleanup(func() { c.Close() })
	var control []int32
	for _, name := range []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"} {
		id, err := c.ControlToken(f.Context(), name)
		if err != nil {
			f.Fatal(err)
		}
		control = append(control, id)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			text = strings.ToValidUTF8(text, "?")
		}
		ids, err := c.Tokenize(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(ids, func(id int32) bool { return slices.Contains(control, id) }) {
			t.Errorf("%q is %v", text, ids)
		}
		if back, err := c.Detokenize(t.Context(), ids); err != nil || back != text {
			t.Errorf("%q came back as %q, %v", text, back, err)
		}
	})
}

// BenchmarkCodec measures one turn of a text server with a prompt of 512 tokens:
// decode the prompt, check the text, encode the answer.
func BenchmarkCodec(b *testing.B) {
	c := startLocal(b).Codec()
	defer c.Close()
	ids, err := c.Tokenize(b.Context(), strings.Repeat("Levers: jade, bone. Door 1 of 2 is iron.\n", 64))
	if err != nil {
		b.Fatal(err)
	}
	ids = ids[:min(len(ids), 512)]
	for b.Loop() {
		text, err := c.Detokenize(b.Context(), ids)
		if err == nil {
			_, err = c.TokenizeSpecial(b.Context(), text)
		}
		if err == nil {
			_, err = c.Tokenize(b.Context(), " pull jade")
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
