package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/sampler/rollout"
)

// console prints results to out, and progress and logs to err. Texts of
// environments, models and servers cannot control the terminal. It is safe for
// concurrent use.
type console struct {
	out, err io.Writer // they escape what controls a terminal
	raw      io.Writer // err without escapes, for logs: their colours are escapes too
	mu       sync.Mutex
}

func newConsole(stdout, stderr io.Writer) *console {
	return &console{out: safetext.Writer{W: stdout}, err: safetext.Writer{W: stderr}, raw: stderr}
}

// note prints one line of progress to standard error.
func (c *console) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.err, format+"\n", args...)
}

// print prints one line of results to standard output.
func (c *console) print(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// jsonSchema is the version of the JSON lines. It changes if a field is renamed,
// removed or gets another meaning.
const jsonSchema = 1

// json prints one JSON line to standard output.
func (c *console) json(event string, v any) {
	text, err := json.Marshal(map[string]any{"event": event, "schema": jsonSchema, "data": v})
	if err != nil {
		c.note("%s: %v", event, err)
		return
	}
	c.print("%s", text)
}

// logger logs to standard error: warnings only, or everything if verbose.
func (c *console) logger(verbose bool) zerolog.Logger {
	level := zerolog.WarnLevel
	if verbose {
		level = zerolog.DebugLevel
	}
	w := zerolog.ConsoleWriter{
		Out: lockedWriter{c, c.raw}, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != "" || !isTerminal(c.raw),
		FormatPrepare: inertMessage, FormatFieldValue: inertValue,
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// inertMessage escapes the message of a log entry. The writer quotes texts in fields.
func inertMessage(entry map[string]any) error {
	if text, ok := entry[zerolog.MessageFieldName].(string); ok {
		entry[zerolog.MessageFieldName] = safetext.Line(text)
	}
	return nil
}

// inertValue formats a field that is no error. Lists are not quoted by the writer.
func inertValue(value any) string { return safetext.Escape(fmt.Sprintf("%s", value)) }

// lockedWriter writes to a writer of the console, one line at a time.
type lockedWriter struct {
	c  *console
	to io.Writer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return w.to.Write(p)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// legend explains the abbreviations of stepLine.
const legend = `on: episodes without tips · +tips: with tips · off: sampled with tips, trained without them
free/tips: mean environment return of episodes sampled without/with tips ` +
	`· flat: groups of equal returns (no gradient)
mask: trained tokens below the log-prob floor · ratio: mean importance ratio · kl: mean KL to the base model
mismatch: mean/largest difference of server's and trainer's log-probs in nats · v: version`

// stepLine describes one training step in one line.
func stepLine(m orchestrator.StepMetrics) string {
	mean := func(r orchestrator.EpisodeStats) string {
		if r.N == 0 {
			return "   – "
		}
		return fmt.Sprintf("%5.3f", r.Return)
	}
	s := m.Seconds
	line := fmt.Sprintf("step %3d  %-20s  free %s  tips %s", m.Step, modes(m), mean(m.Free), mean(m.Tips))
	if m.Groups > 0 { // something is trained
		mismatch := "    –" // no log-probs to compare
		if m.Mismatch.Tokens > 0 {
			mismatch = fmt.Sprintf("%.0e/%.0e", m.Mismatch.Mean, m.Mismatch.Max)
		}
		line += fmt.Sprintf("  flat %d/%d  mask %4.1f%%  ratio %4.2f  kl %5.3f  mismatch %s",
			m.NoGradient, m.Groups, 100*m.MaskShare, m.Ratio, m.KLBase, mismatch)
	}
	line += fmt.Sprintf("  %4.1fs (sample %.1f train %.1f publish %.1f)  v%d",
		s.Total, s.Sample, s.Train, s.Publish, m.Version)
	if m.Corrected && m.Mismatch.Tokens > 0 {
		line += "  corrected"
	}
	if n := m.Stops[rollout.StopContextFull]; n > 0 {
		line += fmt.Sprintf("  %d episodes ended with a full context", n)
	}
	if m.Failed > 0 {
		line += fmt.Sprintf("  %d episodes FAILED", m.Failed)
	}
	if r := m.Replies; 2*r.Empty >= max(r.N, 1) {
		line += fmt.Sprintf("  %d of %d replies EMPTY", r.Empty, r.N)
	}
	if r := m.Replies; 10*r.Cut >= max(r.N, 1) {
		line += fmt.Sprintf("  %d of %d replies cut at rollout.max_tokens", r.Cut, r.N)
	}
	if r := m.Replies; 10*r.CutTips >= max(r.Tips, 1) {
		line += fmt.Sprintf("  %d of %d tips cut", r.CutTips, r.Tips)
	}
	if m.LeftOut > 0 {
		line += fmt.Sprintf("  %d rows left out", m.LeftOut)
	}
	if len(m.Diverging) > 0 {
		line += "  may DIVERGE"
	}
	if n := m.Trainer.OutOfMemory; n > 0 {
		line += fmt.Sprintf("  trainer out of memory %d×", n)
	}
	if m.Restarts > 0 {
		line += fmt.Sprintf("  trainer restarted %d×", m.Restarts)
	}
	return line
}

// usageLine describes what the trainer needed in a step.
func usageLine(u orchestrator.TrainerUsage) string {
	line := fmt.Sprintf("          trainer: %d tokens, %.0f tokens/s, peak %.2f GB, padding %.0f %%, "+
		"%d micro-batches of up to %d tokens, %d checkpointed",
		u.RowTokens, u.TokensPerSecond, float64(u.PeakMemory)/gigabyte, 100*u.PaddingShare, u.MicroBatches,
		u.MicroBatchTokens, u.Checkpointed)
	if u.MFU > 0 {
		line += fmt.Sprintf(", MFU %.0f %%", 100*u.MFU)
	}
	return line
}

// modes counts the episodes of each mode, for example "on 32 +tips 8 off 24".
func modes(m orchestrator.StepMetrics) string {
	text := ""
	if n := m.Modes[orchestrator.OnPolicy]; n > 0 {
		text = fmt.Sprintf("on %d", n)
	}
	if n := m.Modes[orchestrator.OnPolicyTips]; n > 0 {
		text += fmt.Sprintf(" +tips %d", n)
	}
	if n := m.Modes[orchestrator.OffPolicy]; n > 0 {
		text += fmt.Sprintf(" off %d", n)
	}
	return strings.TrimSpace(text)
}

// evaluationLine describes one evaluation in one line.
func evaluationLine(e orchestrator.Evaluation) string {
	what := "without tips"
	if e.Tips {
		what = "with tips"
	}
	if e.Kind == "test" {
		what = "held-out tasks, " + what
	}
	line := fmt.Sprintf("  evaluation after step %d, %s: success %.1f %%, score %.1f ± %.1f "+
		"(%d episodes, T = %g, %d training episodes, %.0f s of training)",
		e.Step, what, 100*e.Success, e.Score, e.StdErr, e.Episodes, e.Temperature, e.TrainEpisodes, e.TrainSeconds)
	if e.Failed > 0 {
		line += fmt.Sprintf("  %d episodes FAILED", e.Failed)
	}
	return line
}
