package memory_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/memory/memorytest"
)

func TestLearnRefusesBadExperiences(t *testing.T) {
	b := openBank(t, memorytest.DB(t))
	f := func(e memory.Experience, want string) {
		t.Helper()
		if err := b.Learn(t.Context(), e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	f(memory.Experience{States: []string{"a hall"}}, "the scope is empty")
	f(episode(0, "go north", math.NaN(), "a hall"), "is NaN")
	f(episode(0, "go north", math.Inf(1), "a hall"), "is +Inf")
	f(episode(0, "go north", 1, ""), "no state was visited")
}

// broken is an embedder that returns the result of a function.
type broken func(texts []string) ([][]float32, error)

func (broken) Name() string { return "broken-2" }
func (f broken) Embed(_ context.Context, texts ...string) ([][]float32, error) {
	return f(texts)
}

func TestAnswersOfAnEmbedderAreChecked(t *testing.T) {
	f := func(want string, answer [][]float32, err error) {
		t.Helper()
		b := openBank(t, memorytest.DB(t), func(c *memory.Config) {
			c.Embedder = broken(func([]string) ([][]float32, error) { return answer, err })
		})
		err = b.Learn(t.Context(), episode(0, "go north", 1, "a hall", "b"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("learn: error %v, want one with %q", err, want)
		}
	}
	nan := float32(math.NaN())
	f("the server is down", nil, errors.New("the server is down"))
	f("1 vectors for 2 texts", [][]float32{{1, 0}}, nil)
	f("2 and 1 dimensions", [][]float32{{1, 0}, {1}}, nil)
	f("squared length 4", [][]float32{{1, 0}, {2, 0}}, nil)
	f("squared length NaN", [][]float32{{1, 0}, {nan, 0}}, nil)
}

func TestOpenBankRefusesBadConfigs(t *testing.T) {
	db := memorytest.DB(t)
	f := func(change func(*memory.Config), want string) {
		t.Helper()
		c := memory.DefaultConfig(embed.NGram{})
		change(&c)
		if _, err := memory.OpenBank(t.Context(), db, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	f(func(c *memory.Config) { c.Embedder = nil }, "embedder is missing")
	f(func(c *memory.Config) { c.K = 0 }, "k = 0")
	f(func(c *memory.Config) { c.Threshold = math.NaN() }, "threshold = NaN")
	f(func(c *memory.Config) { c.Threshold = 1.5 }, "threshold = 1.5")
	f(func(c *memory.Config) { c.Capacity = 0 }, "capacity = 0")
	f(func(c *memory.Config) { c.Novelty = "doors" }, `novelty = "doors"`)
	f(func(c *memory.Config) { c.NoveltyCap = -1 }, "novelty cap = -1")
	f(func(c *memory.Config) { c.MaxScopes = 0 }, "max scopes = 0")
}
