package trainerbridge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// Remote trains one adapter with a trainer that runs elsewhere, and names its states as [Local] does. Checkpoints and
// exported adapters are in folders below Companion.Root, as if the trainer were here. Only one goroutine at a time
// may use a Remote. Its [Codec] is safe for concurrent use.
//
// A small process beside empo2, the companion, has the tokenizer and converts adapters. The trainer needs neither.
type Remote struct {
	Client    ClientConfig // its URL, and Token if it needs one; BaseModel may be empty
	Companion ProcessConfig
	// Demands are what the run asks of its trainer. What it cannot do is an error of the first Restore.
	Demands Demands

	process  *Process
	now      current // the same process, for the Codec
	client   *Client
	base     *Client // an adapter that is never trained: the base model; nil: not needed yet
	fresh    bool    // the client's adapter is new: version 0
	means    *bool   // the trainer takes means over rows and positions; nil: not measured yet
	found    *string // the server that was found first; nil: none yet
	reported bool    // the log has what is different at this trainer
	pending  []Row   // expressed rows of an optimizer step that need its number of rows
	kept     map[int]string
}

// Codec makes a Codec of the companion, as [Local.Codec] does of the trainer.
func (r *Remote) Codec() *Codec {
	return newCodec(CodecConfig{AnswerTimeout: r.Client.AnswerTimeout, Log: r.Client.Log}, r.now.get)
}

// Deviations are those of the trainer, after the first Restore.
func (r *Remote) Deviations() Deviations { return r.Client.Deviations }

// Describe says what is at the other end, and what is different there, after the first Restore.
func (r *Remote) Describe() []string {
	d := r.Client.Deviations
	lines := []string{fmt.Sprintf("trainer: %s at %s, model %s", d.name(), safetext.URL(r.Client.URL), r.Client.BaseModel)}
	say := func(deviates bool, format string, args ...any) {
		if deviates {
			lines = append(lines, fmt.Sprintf("trainer: "+format, args...))
		}
	}
	say(d.NoEmpo2, "the loss is sent as importance_sampling with the same gradient; the entropy is unknown")
	say(d.Mean, "it takes means over rows and tokens, which are undone in the advantages")
	say(d.NoReplays, "it executes a repeated request again, so a lost answer means that the step begins again")
	say(d.Alpha > 0 && d.Alpha != r.Client.Alpha, "it trains with alpha %g, whatever trainer.alpha says", d.Alpha)
	say(d.NoCheckpoints, "it keeps the optimizer's state and takes over no weights: only it can continue what it trained, "+
		"or this machine with a fresh optimizer")
	return lines
}

// Forward is [Client.Forward].
func (r *Remote) Forward(ctx context.Context, rows []Row) ([][]float32, error) {
	return r.client.Forward(ctx, rows)
}

// ForwardBackward is [Client.ForwardBackward]. If the trainer does not know the loss, it gets another one with the
// same gradient, which costs one more pass.
func (r *Remote) ForwardBackward(ctx context.Context, rows []Row, loss Loss) (Stats, [][]float32, error) {
	r.fresh = false
	if !r.Client.Deviations.NoEmpo2 {
		return r.client.ForwardBackward(ctx, rows, loss)
	}
	begun := time.Now()
	expressed, logprobs, metrics, err := r.express(ctx, rows, loss)
	if err != nil {
		return nil, nil, err
	}
	if r.Client.Deviations.Mean {
		r.pending = append(r.pending, expressed...)
	} else if _, _, err := r.client.ForwardBackward(ctx, expressed, importanceSampling); err != nil {
		return nil, nil, err
	}
	metrics[secondsKey] = time.Since(begun).Seconds()
	return metrics, logprobs, nil
}

// importanceSampling is the loss of expressed rows.
var importanceSampling = Loss{Name: "importance_sampling"}

// express computes the gradient of the loss at the present weights.
func (r *Remote) express(ctx context.Context, rows []Row, loss Loss) ([]Row, [][]float32, Stats, error) {
	o, err := newObjective(loss)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := checkRows(rows); err != nil {
		return nil, nil, nil, fmt.Errorf("forward_backward: %w", err)
	}
	logprobs, err := r.client.Forward(ctx, rows)
	if err != nil {
		return nil, nil, nil, err
	}
	base := make([][]float32, len(rows))
	if o.k3 && slices.ContainsFunc(rows, Row.wantsBase) {
		if base, err = r.baseLogprobs(ctx, rows); err != nil {
			return nil, nil, nil, err
		}
	}
	metrics, out := Stats{"loss:sum": 0, "tokens:sum": 0}, make([]Row, len(rows))
	for i, row := range rows {
		if out[i], err = o.express(row, logprobs[i], base[i], metrics); err != nil {
			return nil, nil, nil, fmt.Errorf("row %d: %w", i, err)
		}
	}
	return out, logprobs, metrics, nil
}

// baseLogprobs are those of the base model: of an adapter that was never trained.
func (r *Remote) baseLogprobs(ctx context.Context, rows []Row) ([][]float32, error) {
	if r.base == nil {
		base, err := Dial(ctx, r.Client)
		if err != nil {
			return nil, fmt.Errorf("an untrained adapter, for the KL divergence: %w", err)
		}
		r.base = base
	}
	return r.base.Forward(ctx, rows)
}

// OptimStep is [Client.OptimStep]. At a trainer that takes means, it first makes the backward pass. The seconds of
// that pass are in its stats.
func (r *Remote) OptimStep(ctx context.Context, adam Adam) (Stats, error) {
	r.fresh = false
	if len(r.pending) == 0 {
		return r.client.OptimStep(ctx, adam)
	}
	begun := time.Now()
	if err := r.sendPending(ctx); err != nil {
		return nil, err
	}
	took := time.Since(begun).Seconds()
	stats, err := r.client.OptimStep(ctx, adam)
	if err == nil {
		stats[secondsKey] = took
	}
	return stats, err
}

// sendPending sends the rows of an optimizer step to a trainer that takes the mean over them.
func (r *Remote) sendPending(ctx context.Context) error {
	rows := r.pending
	r.pending = nil
	scaled := make([]Row, len(rows))
	for i, row := range rows {
		scaled[i] = row.scaled(len(rows))
	}
	_, _, err := r.client.ForwardBackward(ctx, scaled, importanceSampling)
	return err
}

// Restore sets the adapter and its optimizer to a version. It connects again if the trainer does not answer.
func (r *Remote) Restore(ctx context.Context, version int) error {
	r.pending = nil
	if version == 0 && r.fresh && r.alive(ctx) {
		return nil
	}
	if err := r.Accompany(ctx); err != nil {
		return err
	}
	if err := r.identify(ctx); err != nil {
		return err
	}
	if version == 0 {
		return r.dial(ctx)
	}
	return r.load(ctx, version)
}

// alive reports whether companion and trainer answer.
func (r *Remote) alive(ctx context.Context) bool {
	return r.process != nil && r.process.Err() == nil && r.client != nil && r.client.Health(ctx) == nil
}

// identify asks the trainer what it is, and refuses what it cannot do.
func (r *Remote) identify(ctx context.Context) error {
	found, err := Detect(ctx, r.Client)
	if err != nil {
		return err
	}
	d := found.Deviations
	if err := r.sameServer(d); err != nil {
		return err
	}
	r.Client.Deviations = d
	if r.Client.BaseModel, err = found.BaseModel(r.Client.BaseModel, r.Companion.Model); err != nil {
		return err
	}
	if err := d.refuse(r.Demands); err != nil {
		return err
	}
	if err := r.measure(ctx); err != nil {
		return err
	}
	r.report()
	return nil
}

// sameServer remembers the server that was found first, and refuses another one: it scales gradients differently, and
// the run's checkpoints may be elsewhere.
func (r *Remote) sameServer(d Deviations) error {
	name := d.name()
	if r.found == nil {
		r.found = &name
	}
	if *r.found != name {
		return fmt.Errorf("%s answers at %s, where this run has found %s\n"+
			"  hint: is a proxy in between, or was the server replaced? If that is intended, start the run again", name,
			safetext.URL(r.Client.URL), *r.found)
	}
	return nil
}

// measure finds out once how the trainer scales gradients, if that is open.
func (r *Remote) measure(ctx context.Context) error {
	if !r.Client.Deviations.MayMean {
		return nil
	}
	if r.means == nil {
		r.disconnect(ctx) // some backends hold one model
		means, err := takesMeans(ctx, r.Client)
		if err != nil {
			return err
		}
		r.means = &means
	}
	r.Client.Deviations.Mean = *r.means
	return nil
}

// report logs once what is different at this trainer.
func (r *Remote) report() {
	if r.reported {
		return
	}
	r.reported = true
	d := r.Client.Deviations
	r.Client.Log.Info().Str("url", safetext.URL(r.Client.URL)).Str("server", d.name()).Str("model", r.Client.BaseModel).
		Msg("the trainer runs elsewhere")
	if d.Alpha > 0 && d.Alpha != r.Client.Alpha {
		r.Client.Log.Warn().Float64("trainer.alpha", r.Client.Alpha).Float64("trained_with", d.Alpha).
			Msg("the trainer ignores trainer.alpha")
	}
}

// dial creates a new adapter, which is version 0.
func (r *Remote) dial(ctx context.Context) error {
	r.disconnect(ctx)
	client, err := Dial(ctx, r.Client)
	if err != nil {
		return err
	}
	r.client, r.fresh = client, true
	return nil
}

// disconnect ends the connections and frees the models.
func (r *Remote) disconnect(ctx context.Context) {
	for _, c := range []*Client{r.client, r.base} {
		if c != nil {
			c.unload(ctx)
			c.Close()
		}
	}
	r.client, r.base = nil, nil
}

// Accompany starts the companion, if it does not run. Restore does it too; a caller that needs only the Codec need
// not reach the trainer.
func (r *Remote) Accompany(ctx context.Context) error {
	if r.process != nil && r.process.Err() == nil {
		return nil
	}
	r.now.expect()
	config := r.Companion
	config.Companion = true
	process, err := Start(ctx, config)
	if err != nil {
		err = fmt.Errorf("start the trainer's companion: %w", err)
		r.now.lost(err)
		return err
	}
	r.process = process
	r.now.set(process)
	return nil
}

// Close frees the adapter at the trainer, which continues to run, and stops the companion.
func (r *Remote) Close() error {
	r.now.lost(errors.New("the trainer was closed"))
	r.disconnect(context.Background())
	if r.process == nil {
		return nil
	}
	err := r.process.Close()
	r.process = nil
	return err
}

// callCompanion makes a call of the companion.
func (r *Remote) callCompanion(ctx context.Context, op string, body, result any) error {
	limit := r.Client.withDefaults().Timeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: not done within %v", op, limit))
	defer cancel()
	if r.process == nil {
		return fmt.Errorf("%s: %w: the companion does not run", op, ErrUnavailable)
	}
	to, err := newLink(r.process.URL(), r.process.Token(), limit, r.Client.Log, jsonhttp.NewTransport(1))
	if err != nil {
		return err
	}
	defer to.http.Close()
	raw, err := ask(ctx, r.process, to, op, body)
	if err != nil {
		return err
	}
	return decode(op, raw, result)
}

// unique is a name for a checkpoint at the trainer, which may have those of other runs, and of attempts before.
func unique(version int) string {
	var b [4]byte
	rand.Read(b[:])
	return fmt.Sprintf("v%06d-%s", version, hex.EncodeToString(b[:]))
}

// folder is that of a version's checkpoint.
func (r *Remote) folder(version int) (string, error) {
	root, err := filepath.Abs(r.Companion.Root)
	return filepath.Join(root, "checkpoints", fmt.Sprintf("%06d", version)), err
}

// Export writes the adapter of a version for inference servers, from its checkpoint.
func (r *Remote) Export(ctx context.Context, version int) (Exported, error) {
	var out struct {
		Dir string `json:"dir"`
	}
	body := map[string]string{"name": fmt.Sprintf("%06d", version), "export": fmt.Sprintf("v%06d", version)}
	if err := r.callCompanion(ctx, "export_checkpoint", body, &out); err != nil {
		return Exported{}, err
	}
	return ReadExport(out.Dir)
}

// exists reports whether a path exists.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
