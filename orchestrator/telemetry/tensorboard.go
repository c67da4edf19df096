package telemetry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/telemetry/tfevents"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// TensorBoard writes the events of a run to a folder. It is an [orchestrator.Observer], so
// that it can follow the run.
type TensorBoard struct {
	scheme string
	log    zerolog.Logger
	file   *os.File
	out    *tfevents.Writer
}

// OpenTensorBoard writes what a run has reached to a new event file, and removes the event
// files that it wrote before to the same folder: steps that the run has taken back are in
// none. A zero log is silent.
func OpenTensorBoard(dir, scheme string, r Run, log zerolog.Logger) (*TensorBoard, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	before, err := filepath.Glob(filepath.Join(quoteGlob(dir), "events.out.tfevents.*.empo2"))
	if err != nil {
		return nil, err
	}
	at := time.Now()
	path := filepath.Join(dir, tfevents.FileName(at))
	for fileExists(path) { // begun in the same second
		at = at.Add(time.Second)
		path = filepath.Join(dir, tfevents.FileName(at))
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	t := &TensorBoard{scheme: scheme, log: log, file: file}
	if err := t.begin(r); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), file.Close(), os.Remove(path))
	}
	for _, old := range before {
		err = errors.Join(err, os.Remove(old))
	}
	return t, err
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// quoteGlob makes a path a pattern that only it matches.
func quoteGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

func (t *TensorBoard) begin(r Run) (err error) {
	first := time.Now()
	if len(r.Points) > 0 {
		first = r.Points[0].At
	}
	if t.out, err = tfevents.NewWriter(t.file, first); err != nil {
		return err
	}
	config := "```toml\n" + r.Config + "\n```"
	err = t.out.Write(first, 0, []tfevents.Value{{Tag: "config/text_summary", Text: config}})
	for _, p := range r.Points {
		if err == nil {
			err = t.write(p)
		}
	}
	return err
}

func (t *TensorBoard) write(p Point) error {
	values := make([]tfevents.Value, len(p.Values))
	for i, v := range p.Values {
		values[i] = tfevents.Value{Tag: v.Name, Number: v.Number}
	}
	return t.out.Write(p.At, p.Step, values)
}

// add writes a point of a running run. The run goes on if that fails.
func (t *TensorBoard) add(p Point) {
	if t.file == nil {
		return
	}
	if err := t.write(p); err != nil {
		t.log.Warn().Err(err).Msg("events for TensorBoard are not written any more; the run goes on")
		_ = t.Close()
	}
}

// Close closes the file.
func (t *TensorBoard) Close() error {
	if t.file == nil {
		return nil
	}
	err := t.file.Close()
	t.file = nil
	return err
}

// Phase implements [orchestrator.Observer].
func (t *TensorBoard) Phase(watchdog.Phase) {}

// Step implements [orchestrator.Observer].
func (t *TensorBoard) Step(m orchestrator.StepMetrics) {
	t.add(Point{m.Step, time.Now(), ofStep(m, t.scheme)})
}

// Evaluation implements [orchestrator.Observer].
func (t *TensorBoard) Evaluation(e orchestrator.Evaluation) {
	t.add(Point{e.Step, time.Now(), ofEvaluation(e)})
}

// Prompt implements [orchestrator.Observer].
func (t *TensorBoard) Prompt(orchestrator.PromptReload) {}

var _ orchestrator.Observer = (*TensorBoard)(nil)
