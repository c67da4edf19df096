package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/chat"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// trains reports whether a run trains weights. Only then it has a trainer.
func trains(c config.Config) bool { return c.Algorithm.Name != "adapt" }

// A runTrainer is a trainer of the training loop, here or elsewhere. Close it at the end.
type runTrainer interface {
	orchestrator.Trainer
	// Codec has the tokenizer and the chat template of the model.
	Codec() *trainerbridge.Codec
	Close() error
}

var (
	_ runTrainer = (*trainerbridge.Local)(nil)
	_ runTrainer = (*trainerbridge.Remote)(nil)
)

// openTrainer returns the trainer of a run. It starts no process yet.
func openTrainer(c config.Config, t tools, root string, share float64, log zerolog.Logger) runTrainer {
	if c.Trainer.URL != "" {
		return newRemote(c, t, root, log)
	}
	trainer := newTrainer(c, t, root, log)
	trainer.Process.MemoryShare = share
	return trainer
}

// trainerKey returns the token of a trainer elsewhere, or "" if it needs none.
func trainerKey() string { return os.Getenv(trainerbridge.KeyVariable) }

// newRemote returns the trainer at trainer.url.
func newRemote(c config.Config, t tools, root string, log zerolog.Logger) *trainerbridge.Remote {
	local := newTrainer(c, t, root, log)
	local.Client.URL, local.Client.Token, local.Client.BaseModel = c.Trainer.URL, trainerKey(), c.Trainer.BaseModel
	modules := c.Trainer.TargetModules
	return &trainerbridge.Remote{
		Client: local.Client, Companion: local.Process,
		Demands: trainerbridge.Demands{
			ExactKL:  (c.Loss.KL != 0 || c.Loss.KLSampled != 0) && c.Loss.KLEstimator == "exact",
			Entropy:  c.Loss.Entropy != 0,
			Clipping: c.Optimizer.GradClipNorm != 0,
			Modules:  len(modules) != 1 || modules[0] != config.AllLinear,
		},
	}
}

// newTrainer returns a trainer on this machine. It starts no process yet.
func newTrainer(c config.Config, t tools, root string, log zerolog.Logger) *trainerbridge.Local {
	return &trainerbridge.Local{
		Process: trainerbridge.ProcessConfig{
			Python: t.python, SourceDir: t.sources, Model: t.model, Root: root,
			Threads: c.Trainer.Threads, Dtype: c.Trainer.Dtype, Device: c.Trainer.Device,
			Quantize: c.Trainer.Quantize, MicroBatchTokens: c.Trainer.MicroBatch,
			GPUs: c.Trainer.GPUs, Parallel: c.Trainer.Parallel, RankTimeout: seconds(c.Trainer.TimeoutSeconds),
			Deterministic: c.Run.Repeatable,
			Formats:       c.Sampler.AdapterFormats(), Inherit: c.Trainer.Env, Log: log,
		},
		Client: trainerbridge.ClientConfig{
			Rank: c.Trainer.Rank, Alpha: c.Trainer.Alpha, Seed: int64(c.Run.Seed & (1<<31 - 1)),
			TargetModules: c.Trainer.TargetModules, Timeout: seconds(c.Trainer.TimeoutSeconds), Log: log,
		},
	}
}

// A trainerCodec is the trainer's tokenizer and chat template as package chat
// needs them.
type trainerCodec struct{ *trainerbridge.Codec }

// Render writes messages in the model's own chat template.
func (c trainerCodec) Render(ctx context.Context, messages []chat.Message, generation bool) (string, error) {
	texts := make([]trainerbridge.TextMessage, len(messages))
	for i, m := range messages {
		texts[i] = trainerbridge.TextMessage{Role: m.Role, Content: m.Text()}
	}
	text, err := c.Codec.Render(ctx, texts, generation)
	var refused *trainerbridge.RequestError
	if errors.As(err, &refused) && refused.Category == trainerbridge.CategoryUser {
		return "", fmt.Errorf("%w: %w", chat.ErrRefused, err)
	}
	return text, err
}
