package orchestrator

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// Published is the policy that samples the next step.
type Published struct {
	Policy  sampler.Policy
	Version *ledger.Version // nil: the step trained nothing, the policy is unchanged
	Seconds float64
	// ServerMemory is that of the servers while both versions are served, in
	// bytes; 0: unknown.
	ServerMemory int64
}

// publishStage has versions served and verified.
type publishStage struct {
	ledger  *ledger.Ledger
	backend sampler.Backend
	canary  func() float64 // nil: no canary
	memory  func() int64   // of the servers; nil: unknown
	trainer Trainer
	formats []string // of the adapters that the server loads
	log     zerolog.Logger
	// recovery restores the trainer if it fails. It is also the lock of the
	// trainer: servers of several replicas ask for scores at the same time.
	recovery *recovery
}

func (l *Loop) publishStage() publishStage {
	return publishStage{ledger: l.Ledger, backend: l.Backend, canary: l.Canary, memory: l.ServerMemory,
		trainer: l.Trainer, formats: l.Config.Sampler.AdapterFormats(), log: l.Log, recovery: l.recoverer()}
}

// run publishes an update and retires the version before it. Without an update
// the policy stays.
func (s publishStage) run(ctx context.Context, u *Update, before sampler.Policy) (Published, error) {
	out, err := s.serve(ctx, u, before)
	if err == nil && u != nil {
		s.retire(ctx, before) // if the commit fails, a continued run publishes it again
	}
	return out, err
}

// serve publishes an update. The version before it is served too.
func (s publishStage) serve(ctx context.Context, u *Update, before sampler.Policy) (Published, error) {
	if u == nil {
		return Published{Policy: before}, nil
	}
	begun := time.Now()
	policy, err := s.version(ctx, u.Version, u.Export)
	if err != nil {
		return Published{}, err
	}
	v := &ledger.Version{Version: u.Version, Step: int64(u.Version), Dir: u.Export.Dir, Files: u.Export.Files}
	if s.canary != nil {
		v.Canary = s.canary()
	}
	out := Published{Policy: policy, Version: v, Seconds: time.Since(begun).Seconds()}
	if s.memory != nil {
		out.ServerMemory = s.memory()
	}
	return out, nil
}

// restored publishes a committed version. If its adapter is missing or damaged, the
// trainer writes it again. One that is as it was committed is kept: another one would name
// the folder of the model, which may have moved.
func (s publishStage) restored(ctx context.Context, version int) (sampler.Policy, error) {
	if kept, ok := s.kept(ctx, version); ok {
		return s.version(ctx, version, kept)
	}
	var export trainerbridge.Exported
	_, err := s.recovery.do(ctx, "export", version, func() (err error) {
		export, err = s.trainer.Export(ctx, version)
		return err
	})
	if err != nil {
		return sampler.Policy{}, fmt.Errorf("export version %d: %w", version, err)
	}
	if err := s.ledger.VerifyAdapter(ctx, version, export.Files); err != nil {
		return sampler.Policy{}, err
	}
	return s.version(ctx, version, export)
}

// kept returns the adapter of a committed version, if it is as it was committed and in
// the formats that the server needs.
func (s publishStage) kept(ctx context.Context, version int) (trainerbridge.Exported, bool) {
	dir, err := filepath.Abs(ledger.AdapterDir(s.ledger.Dir, version))
	if err != nil {
		return trainerbridge.Exported{}, false
	}
	export, err := trainerbridge.ReadExport(dir)
	if err == nil {
		err = s.ledger.VerifyAdapter(ctx, version, export.Files)
	}
	return export, err == nil && (export.GGUF != "" || !slices.Contains(s.formats, "gguf"))
}

// version has an exported version served and verified.
func (s publishStage) version(ctx context.Context, version int, export trainerbridge.Exported) (
	sampler.Policy, error) {
	defer watchdog.Begin(ctx, "server", fmt.Sprintf("publish version %d", version), 0)()
	adapter := sampler.Adapter{Version: version, Dir: export.Dir, GGUF: export.GGUF, Score: s.score(version),
		Verify: export.Verify}
	policy, err := s.backend.Publish(ctx, adapter)
	if err != nil {
		return policy, fmt.Errorf("publish version %d: %w", version, err)
	}
	return policy, nil
}

// score is the trainer's side of the canary. The version's checkpoint is on
// disk, so a trainer that has died is restored to it.
func (s publishStage) score(version int) func(context.Context, []int32) ([]float32, error) {
	return func(ctx context.Context, tokens []int32) (out []float32, err error) {
		_, err = s.recovery.do(ctx, "canary", version, func() (err error) {
			out, err = score(ctx, s.trainer, tokens)
			return err
		})
		return out, err
	}
}

// score returns log π of tokens[1:] under the trainer's present adapter, in
// nats.
func score(ctx context.Context, trainer Trainer, tokens []int32) ([]float32, error) {
	out, err := trainer.Forward(ctx, []trainerbridge.Row{{Tokens: tokens}})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// retire stops serving an old version. The base model is kept for reflection.
func (s publishStage) retire(ctx context.Context, old sampler.Policy) {
	if old.Version == 0 {
		return
	}
	if err := s.backend.Retire(ctx, old); err != nil && ctx.Err() == nil {
		s.log.Warn().Err(err).Int("version", old.Version).Msg("the old version was not retired")
	}
}
