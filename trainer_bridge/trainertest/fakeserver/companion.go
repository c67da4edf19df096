package fakeserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// companion executes an operation of a trainer's companion. The fake answers it in the same server as all others.
func (s *Server) companion(c Call) (int, any) {
	var ask struct {
		Source string          `json:"source"`
		Name   string          `json:"name"`
		Export string          `json:"export"`
		Rank   int             `json:"rank"`
		Alpha  float64         `json:"alpha"`
		Remote json.RawMessage `json:"remote"`
	}
	if err := json.Unmarshal(c.Body, &ask); err != nil {
		return http.StatusBadRequest, detail(err.Error())
	}
	from, folder, name := filepath.Join(ask.Source, "adapter_config.json"), "checkpoints", ask.Name
	if c.Op == "export_checkpoint" {
		from, folder, name = filepath.Join(s.Root, "checkpoints", ask.Name, "adapter.safetensors"), "adapters", ask.Export
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return http.StatusBadRequest, detail(err.Error())
	}
	var known saved
	if err := json.Unmarshal(text, &known); err != nil {
		return http.StatusBadRequest, detail(err.Error())
	}
	state, _ := json.Marshal(known)
	about := map[string]any{"version": known.Version, "steps": known.Steps}
	if ask.Remote != nil {
		about["remote"] = ask.Remote
	}
	files := filesOf[folder]
	if c.Op == "import_adapter" { // the optimizer's state stays where it is
		files = []string{"adapter.safetensors", "meta.json"}
	}
	dir := filepath.Join(s.Root, folder, name)
	if err := writeDir(dir, files, state, about); err != nil {
		return http.StatusInternalServerError, detail(fmt.Sprint(err))
	}
	return 200, map[string]string{"dir": dir}
}
