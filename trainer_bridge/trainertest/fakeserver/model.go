package fakeserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// model is one adapter: its queue of requests and its state. The server's
// mutex guards it.
type model struct {
	opts Options
	id   string

	next  int64          // number of the next request to execute
	bySeq map[int64]*job // accepted
	byID  map[string]*job

	version int
	dirty   bool // there was an optimizer step after the last save
	steps   int
	pending int
	done    int

	requests  int       // at SkyRL, all but create_model
	gradients []float64 // at SkyRL, of the rows since the last optimizer step
}

// job is an accepted request.
type job struct {
	id     string
	call   Call
	fault  Fault
	done   chan struct{} // closed when result is set
	result any
}

func newModel(opts Options, id string) *model {
	return &model{opts: opts, id: id, next: 1, bySeq: map[int64]*job{}, byID: map[string]*job{}}
}

// settled adds a request that is done and returns its id.
func (m *model) settled(result any) string {
	j := &job{id: m.id + ":create", done: make(chan struct{}), result: result}
	close(j.done)
	m.byID[j.id] = j
	return j.id
}

// accept queues a request under its number and executes all requests whose
// predecessors are done.
func (m *model) accept(c Call, fault Fault) (int, any) {
	ack := func(j *job) (int, any) {
		return 200, map[string]string{"request_id": j.id, "model_id": m.id}
	}
	if j := m.bySeq[c.Seq]; j != nil {
		if !bytes.Equal(j.call.Body, c.Body) || j.call.Op != c.Op {
			return 409, detail(fmt.Sprintf("seq_id %d was used for another request", c.Seq))
		}
		return ack(j)
	}
	j := &job{id: fmt.Sprintf("%s:%s:%d", m.id, c.Op, c.Seq), call: c, fault: fault, done: make(chan struct{})}
	m.bySeq[c.Seq], m.byID[j.id] = j, j
	for due := m.bySeq[m.next]; due != nil; due = m.bySeq[m.next] {
		due.result = m.run(due)
		close(due.done)
		m.next++
	}
	return ack(j)
}

// run executes a request and returns the result.
func (m *model) run(j *job) any {
	if j.fault.Category != "" {
		failure := map[string]any{"error": j.fault.Message, "category": j.fault.Category}
		maps.Copy(failure, j.fault.Details)
		return failure
	}
	m.done++
	result, err := m.execute(j.call)
	if err != nil {
		return map[string]string{"error": err.Error(), "category": "user"}
	}
	return result
}

func (m *model) execute(c Call) (any, error) {
	var in struct {
		Forward         lossInput          `json:"forward_input"`
		ForwardBackward lossInput          `json:"forward_backward_input"`
		Adam            map[string]float64 `json:"adam_params"`
		Path            string             `json:"path"`
		Overwrite       bool               `json:"overwrite"`
	}
	if err := json.Unmarshal(c.Body, &in); err != nil {
		return nil, err
	}
	switch c.Op {
	case "forward":
		return m.loss(in.Forward)
	case "forward_backward":
		out, err := m.loss(in.ForwardBackward)
		if err == nil {
			m.pending += len(in.ForwardBackward.Data)
		}
		return out, err
	case "optim_step":
		return m.optimStep(in.Adam)
	case "save_weights":
		return m.save("checkpoints", "weights", in.Path, in.Overwrite)
	case "save_weights_for_sampler":
		return m.save("adapters", "sampler_weights", in.Path, in.Overwrite)
	}
	return m.load(in.Path)
}

func (m *model) state() State {
	return State{Version: m.current(), Steps: m.steps, Pending: m.pending, Done: m.done}
}

// current returns the version whose log-probs the model has.
func (m *model) current() int {
	if m.dirty {
		return m.version + 1
	}
	return m.version
}

func (m *model) optimStep(adam map[string]float64) (any, error) {
	norm := math.Sqrt(float64(m.pending))
	if m.pending > 0 {
		m.dirty = true
	}
	m.steps++
	m.pending = 0
	return map[string]any{"metrics": map[string]float64{
		"grad_norm:mean": norm, "learning_rate:mean": adam["learning_rate"],
	}}, nil
}

// save writes a checkpoint or an export. As with the real trainer, the directory
// appears only when it is complete.
func (m *model) save(folder, kind, name string, overwrite bool) (any, error) {
	if name == "" || filepath.Base(name) != name {
		return nil, fmt.Errorf("%q cannot be a name", name)
	}
	version := m.current()
	if n, err := strconv.Atoi(strings.TrimPrefix(name, "v")); err == nil {
		version = n
	}
	dir := filepath.Join(m.opts.Root, folder, name)
	if _, err := os.Stat(dir); err == nil && !overwrite {
		return nil, fmt.Errorf("%s exists", dir)
	}
	state, err := json.Marshal(saved{Version: version, Steps: m.steps, Rank: 8, Policy: version})
	if err != nil {
		return nil, err
	}
	if err := writeDir(dir, filesOf[folder], state, map[string]any{"version": version, "steps": m.steps}); err != nil {
		return nil, err
	}
	m.version, m.dirty = version, false
	return map[string]string{"path": fmt.Sprintf("tinker://%s/%s/%s", m.id, kind, name), "dir": dir}, nil
}

// saved is the content of every file that the fake writes, except for safetensors and
// GGUF files of adapters. A fake inference server reads Rank and Policy from
// adapter_config.json.
type saved struct {
	Version int `json:"version"`
	Steps   int `json:"steps"`
	Rank    int `json:"r"`
	Policy  int `json:"empo2_version"` // the same as Version
}

// filesOf lists the files of a folder. The last one is the manifest.
var filesOf = map[string][]string{
	"checkpoints": {"adapter.safetensors", "optimizer.safetensors", "meta.json"},
	"adapters":    {"adapter_config.json", "adapter_model.safetensors", "adapter.gguf", "manifest.json"},
}

// safetensors is a file without tensors: the length of its header, little
// endian, and the header.
var safetensors = []byte("\x02\x00\x00\x00\x00\x00\x00\x00{}")

func writeDir(dir string, names []string, content []byte, about map[string]any) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-*")
	if err != nil {
		return err
	}
	list := names[len(names)-1]
	for _, name := range names[:len(names)-1] {
		text := content
		switch name {
		case "adapter_model.safetensors":
			text = safetensors
		case "adapter.gguf": // the fake Ollama reads the version
			text = fmt.Appendf(nil, "GGUF adapter of version %v\n%s", about["version"], content)
		}
		if err := os.WriteFile(filepath.Join(tmp, name), text, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(manifest.Write(tmp, list, about), os.RemoveAll(dir), os.Rename(tmp, dir))
}

func (m *model) load(path string) (any, error) {
	parts := strings.Split(strings.TrimPrefix(path, "tinker://"), "/")
	if len(parts) != 3 || parts[1] != "weights" {
		return nil, fmt.Errorf("%s is not tinker://model/weights/name", path)
	}
	b, err := os.ReadFile(filepath.Join(m.opts.Root, "checkpoints", parts[2], "meta.json"))
	if err != nil {
		return nil, fmt.Errorf("no checkpoint %s", parts[2])
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	m.version, m.steps, m.dirty, m.pending = s.Version, s.Steps, false, 0
	return map[string]string{"path": path}, nil
}
