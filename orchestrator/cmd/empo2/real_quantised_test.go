package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// lengthReward is an environment over HTTP: one turn, and the reward is the length
// of the reply, so that the episodes of a group differ.
func lengthReward(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/step" {
			fmt.Fprint(w, `{"id": "1", "observation": "Describe a river in a few words."}`)
			return
		}
		var step struct{ Action string }
		if err := json.NewDecoder(r.Body).Decode(&step); err != nil {
			t.Errorf("a step: %v", err)
		}
		fmt.Fprintf(w, `{"observation": "", "reward": %d, "terminated": true, "truncated": false, "info": {}}`,
			len(step.Action))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// llama-server serves a quantised GGUF file of the user's own, and the trainer
// has the float32 weights. The mismatch is measured, named and corrected.
func TestRealQuantisedBaseIsNamedAndCorrected(t *testing.T) {
	model, file := os.Getenv("EMPO2_SMOLLM2"), os.Getenv("EMPO2_SMOLLM2_GGUF")
	if model == "" || file == "" {
		t.Skip("NOT RUN: EMPO2_SMOLLM2 and EMPO2_SMOLLM2_GGUF name no model; scripts/test sets them")
	}
	realScratch(t)
	args := []string{"run", "--profile", "cpu"}
	for _, set := range []string{"model.path=" + model, "sampler.backend=llamacpp", "sampler.llamacpp.gguf=" + file,
		"sampler.llamacpp.threads=1", "sampler.max_model_len=512", "env.name=remote", "env.remote.url=" + lengthReward(t),
		"algorithm.name=grpo", "algorithm.groups=1", "algorithm.group_size=4", "rollout.max_turns=1",
		"rollout.max_tokens=12", "rollout.concurrency=4", "run.steps=1", "eval.every=0", "eval.final_episodes=1",
		"trainer.threads=1"} {
		args = append(args, "--set", set)
	}
	cmd := exec.CommandContext(t.Context(), "empo2", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if out, err := cmd.Output(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, stderr.String())
	}
	text := stderr.String()
	if !strings.Contains(text, "the rows are corrected: ") ||
		!strings.Contains(text, "the served base is quantised: Q4_1") {
		t.Errorf("no warning that names the cause:\n%s", text)
	}
	summary, err := readSummary(t.Context(), filepath.Join("runs", "remote"))
	if err != nil || len(summary.History) != 1 {
		t.Fatalf("%d steps, %v", len(summary.History), err)
	}
	m := summary.History[0]
	if x := m.Mismatch; x.Tokens < 10 || x.Mean < 0.005 || x.Mean > 0.3 || x.ESS < 0.5 || !m.Corrected {
		t.Errorf("%+v, corrected %t", x, m.Corrected)
	}
}
