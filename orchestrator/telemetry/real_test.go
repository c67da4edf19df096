package telemetry

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

// readTensorBoard prints the scalars and texts of a folder, as TensorBoard's own reader
// finds them.
const readTensorBoard = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
a = EventAccumulator(sys.argv[1])
a.Reload()
numbers = {tag: [[e.step, e.wall_time, e.value] for e in a.Scalars(tag)] for tag in a.Tags()["scalars"]}
texts = {tag: tensor_util.make_ndarray(a.Tensors(tag)[0].tensor_proto)[0].decode() for tag in a.Tags()["tensors"]}
print(json.dumps({"numbers": numbers, "texts": texts}))
`

// readTrackio prints the rows of a project, as trackio's own reader finds them, after it has
// opened the file for writing, and after it has logged a row to a run of its own.
const readTrackio = `
import json, sys
from trackio.sqlite_storage import SQLiteStorage as S
project = sys.argv[1]
S.init_db(project)
S.bulk_log(project, "other", [{"x": 1.0}], steps=[0])
print(json.dumps({"runs": sorted(S.get_runs(project)), "rows": S.get_logs(project, "grpo/1"),
                  "config": S.get_run_config(project, "grpo/1")}, default=str))
`

// python runs a script with the packages of scripts/setup-telemetry.
func python(t *testing.T, env, script string, args ...string) []byte {
	t.Helper()
	interpreter := os.Getenv("EMPO2_TELEMETRY_PYTHON")
	if interpreter == "" {
		t.Skip("EMPO2_TELEMETRY_PYTHON names no interpreter with tensorboard and trackio (scripts/setup-telemetry)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, interpreter, append([]string{"-c", script}, args...)...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TensorBoard reads what was written: of a file that was begun twice, each step once.
func TestRealTensorBoard(t *testing.T) {
	dir := t.TempDir()
	r := run(TRL)
	for range 2 {
		board, err := OpenTensorBoard(dir, TRL, r, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		board.Step(sample(3))
		if err := board.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var got struct {
		Numbers map[string][][3]float64
		Texts   map[string]string
	}
	if err := json.Unmarshal(python(t, "", readTensorBoard, dir), &got); err != nil {
		t.Fatal(err)
	}
	reward := got.Numbers["train/reward"]
	if len(reward) != 3 || reward[0] != [3]float64{1, float64(r.Points[0].At.Unix()), 30} || reward[2][0] != 3 {
		t.Errorf("train/reward: %v", reward)
	}
	if success := got.Numbers["eval/success"]; len(success) != 1 || success[0][0] != 2 || success[0][2] != 0.5 {
		t.Errorf("eval/success: %v", success)
	}
	for _, v := range ofStep(sample(3), TRL) {
		all := got.Numbers[v.Name]
		if len(all) != 3 || all[2][2] != float64(float32(v.Number)) {
			t.Errorf("%s: %v, want %v", v.Name, all, v.Number)
		}
	}
	if want := "```toml\n" + r.Config + "\n```"; got.Texts["config/text_summary"] != want {
		t.Errorf("config: %q", got.Texts)
	}
}

// trackio reads what was written, can write to the same project, and keeps its own runs when
// a run is written again.
func TestRealTrackio(t *testing.T) {
	dir := t.TempDir()
	const project = "my project"
	for n := range 2 {
		if err := Trackio(t.Context(), dir, project, []Run{run(TRL)}); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Runs   []string
			Rows   []map[string]any
			Config map[string]any
		}
		text := python(t, "TRACKIO_DIR="+dir, readTrackio, project)
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if diff := cmp.Diff([]string{"grpo/1", "other"}, got.Runs); diff != "" {
			t.Errorf("round %d: %s", n, diff)
		}
		if got.Config["run.name"] != "grpo/1" || got.Config["loss.kl"] != 0.5 {
			t.Errorf("round %d: %v", n, got.Config)
		}
		if len(got.Rows) != 2 {
			t.Fatalf("round %d: %v", n, got.Rows)
		}
		last := got.Rows[1]
		if last["step"] != 2.0 || last["train/reward"] != 30.0 || last["eval/success"] != 0.5 {
			t.Errorf("round %d: %v", n, last)
		}
	}
	if !fileExists(filepath.Join(dir, "myproject.db")) {
		t.Error("the file has another name")
	}
}
