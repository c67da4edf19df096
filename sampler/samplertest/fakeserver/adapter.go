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

// A LoadFault is a fault of a request that loads an adapter. The zero value is no fault.
type LoadFault string

// The faults of loads.
const (
	LoadFails LoadFault = "fails" // status 500, as for a full disk
	LoadBusy  LoadFault = "busy"  // status 503
	LoadLost  LoadFault = "lost"  // the connection breaks; the adapter is loaded later
)

// answeredWithLoadFault answers a load with a fault. It returns false if the load has no fault.
func (e *Engine) answeredWithLoadFault(w http.ResponseWriter, name, dir string) bool {
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
		e.pendingLoad = func() { e.load(name, dir) }
		e.mu.Unlock()
		panic(http.ErrAbortHandler)
	default:
		e.mu.Lock()
		pending := e.pendingLoad
		e.pendingLoad = nil
		e.mu.Unlock()
		if pending != nil {
			pending()
		}
		return false
	}
	return true
}

// refusedLoad says why a load was refused.
type refusedLoad struct {
	missing bool // the folder has no adapter
	message string
}

// load loads an adapter's folder as written by [WriteAdapter]. It returns nil or the reason why not.
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
	e.maxLoaded = max(e.maxLoaded, len(e.adapters))
	return nil
}

// AddAdapter loads an adapter's folder, as an earlier run may have done. It ignores folders that the server would
// refuse.
func (e *Engine) AddAdapter(name, dir string) { e.load(name, dir) }

// unload reports whether the adapter was loaded.
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

// adapterConfig is the content of adapter_config.json.
type adapterConfig struct {
	Rank    int `json:"r"`
	Version int `json:"empo2_version"` // of the script that answers for the adapter
}

// WriteAdapter writes the folder of an adapter for an Engine. The adapter stands for a version of the script and has
// exact scores.
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
