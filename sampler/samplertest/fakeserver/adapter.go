package fakeserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// A LoadFault is what goes wrong with a load.
type LoadFault string

const (
	LoadFails LoadFault = "fails" // 500, as of a full disk
	LoadBusy  LoadFault = "busy"  // 503
	LoadLost  LoadFault = "lost"  // it is loaded a little later, and the answer is cut
)

// faulty answers a load that goes wrong; false if none does.
func (e *Engine) faulty(w http.ResponseWriter, name, dir string) bool {
	if e.LoadFault == nil {
		return false
	}
	switch e.LoadFault(name) {
	case LoadFails:
		reply(w, http.StatusInternalServerError,
			map[string]any{"error": map[string]any{"message": "No space left on device"}})
	case LoadBusy:
		reply(w, http.StatusServiceUnavailable,
			map[string]any{"error": map[string]any{"message": "The server is overloaded"}})
	case LoadLost:
		e.mu.Lock()
		e.late = func() { e.load(name, dir) }
		e.mu.Unlock()
		panic(http.ErrAbortHandler)
	default:
		e.mu.Lock()
		late := e.late
		e.late = nil
		e.mu.Unlock()
		if late != nil {
			late()
		}
		return false
	}
	return true
}

// A refused load has a reason.
type refusedLoad struct {
	missing bool // nothing in the folder
	message string
}

// load reads an adapter's folder as written by [WriteAdapter].
func (e *Engine) load(name, dir string) *refusedLoad {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.RefuseLoad != nil {
		if message := e.RefuseLoad(name); message != "" {
			return &refusedLoad{message: message}
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "adapter_config.json"))
	if err != nil {
		return &refusedLoad{missing: true, message: fmt.Sprintf("Loading lora %s failed: No adapter found for %s", name, dir)}
	}
	var config adapterConfig
	if err := json.Unmarshal(text, &config); err != nil {
		return &refusedLoad{message: err.Error()}
	}
	if config.Rank > e.MaxRank {
		return &refusedLoad{message: fmt.Sprintf("LoRA rank %d is greater than max_lora_rank %d.", config.Rank, e.MaxRank)}
	}
	e.adapters[name] = loadedAdapter{dir, config.Version}
	e.loads++
	e.most = max(e.most, len(e.adapters))
	return nil
}

// AddAdapter loads an adapter's folder, as an earlier run may have done. What
// the server would refuse is left out.
func (e *Engine) AddAdapter(name, dir string) { e.load(name, dir) }

func (e *Engine) unload(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.adapters[name]
	delete(e.adapters, name)
	return ok
}

func (e *Engine) adapter(name string) (loadedAdapter, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a, ok := e.adapters[name]
	return a, ok
}

type adapterConfig struct {
	Rank    int `json:"r"`
	Version int `json:"empo2_version"` // whose script it stands for
}

// WriteAdapter writes what a trainer would hand over, for an Engine: a folder
// that stands for a version of the script, with exact scores.
func WriteAdapter(t testing.TB, p samplertest.Policy, version int) sampler.Adapter {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(adapterConfig{8, version})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	a := samplertest.NewScripted(p.Tokenizer, p.Script).Adapter(version)
	a.Dir = dir
	return a
}
