package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/demos"
	"github.com/empo2/empo2/orchestrator/forecast"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/warmstart"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/chat"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

type warmstartCmd struct {
	common
	Data         string   `required:"" placeholder:"FILE" help:"Demonstrations, JSON lines."`
	Out          string   `placeholder:"DIR" help:"New model folder. Default: the run's own, which empo2 run finds."`
	Steps        *int     `placeholder:"N" help:"Optimizer steps. Default: one epoch."`
	Epochs       *float64 `placeholder:"N" help:"Passes over the data, instead of --steps."`
	Batch        int      `default:"8" placeholder:"N" help:"Conversations of a step."`
	LearningRate float64  `default:"0.0005" placeholder:"X" help:"Highest learning rate."`
	Schedule     string   `default:"cosine" enum:"cosine,linear,constant" help:"Decay: cosine, linear or constant."`
	WarmupSteps  int      `default:"-1" placeholder:"N" help:"Steps until the highest rate. Default: 5 % of the steps."`
	Rank         int      `default:"32" placeholder:"N" help:"Rank of the adapter, which is merged at the end."`
	Holdout      float64  `default:"0.05" placeholder:"X" help:"Share of the data for the held-out loss."`
	SaveSeconds  float64  `default:"60" placeholder:"S" help:"Seconds between checkpoints: the work that a crash costs."`
	SkipLong     bool     `help:"Leave out conversations that are longer than the model's context."`
	JSON         bool     `help:"Print JSON lines instead of text."`

	Probe inspect.Probe `kong:"-"` // tests replace it
}

// Help is shown by empo2 warmstart --help.
func (warmstartCmd) Help() string {
	return `Trains version 0 of a run on demonstrations, by supervised learning: the loss is the
cross-entropy of the assistant's messages. A message with "weight": 0 is not trained.
The adapter is then merged into the model, and the result is a new model folder. empo2
run begins with it, and the KL anchor is this model too. With --out name the folder in
model.path yourself, for example to start several runs from it.

A line of the data is a conversation as in TRL:
  {"messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"},
                {"role": "assistant", "content": "…"}]}
or {"prompt": [messages], "completion": [messages]}, where the loss counts the completion.

After Ctrl-C or a crash the same command continues from the newest checkpoint that is not
damaged. --learning-rate, --schedule, --warmup-steps and [optimizer] may then be changed.
Conversations that the trainer refuses (no memory, a gradient that is not finite) are left
out; after trainer.max_incomplete_steps such steps in a row the training ends.

Examples:
  empo2 demos --env vault --count 2000 --out demos.jsonl
  empo2 warmstart --data demos.jsonl
  empo2 run
  empo2 warmstart --data demos.jsonl --epochs 2 --learning-rate 0.001 --out models/warm
  empo2 run --set model.path=models/warm`
}

func (cmd *warmstartCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.loadBare()
	if err != nil {
		return err
	}
	if err := cmd.check(c); err != nil {
		return err
	}
	data, err := demos.Read(cmd.Data)
	if err != nil {
		return fmt.Errorf("%w: --data %w", errUsage, err)
	}
	w, err := cmd.plan(ctx, c, len(data))
	if err != nil {
		return err
	}
	if done, err := w.finished(); done || err != nil {
		if done {
			out.print("%s is finished already; %s", w.out, w.next())
		}
		return err
	}
	out.useJSON(cmd.JSON)
	log := out.logger(cmd.Verbose)
	if err := w.checkFit(data, log); err != nil {
		return err
	}
	t, err := setUpTrainer(ctx, c, out, log)
	if err != nil {
		return err
	}
	return w.train(ctx, data, t, out, log)
}

// checkFit refuses a warm start whose trainer needs more memory than there is. No
// server runs beside it. The longest conversation is estimated at four bytes a token. One
// that is longer than the model's context is refused or left out later, by its line.
func (w *warmStart) checkFit(data []demos.Demonstration, log zerolog.Logger) error {
	c, longest := w.config, 0
	for _, d := range data {
		n := 0
		for _, m := range d.Messages {
			n += len(m.Content)
		}
		longest = max(longest, n)
	}
	c.Trainer.Rank, c.Sampler.MaxModelLen = w.settings.Rank, longest/4+1
	in, err := forecastInput(c, w.cmd.Probe.Machine())
	if err != nil {
		return nil // what is wrong with the model is reported where it is used
	}
	if in.Model.Context > 0 {
		in.Config.Sampler.MaxModelLen = min(longest/4+1, in.Model.Context)
	}
	in.Server = forecast.Server{}
	return refuseProblems(forecast.Of(in), c.Run.MustFit, log)
}

// check refuses flags that cannot work.
func (cmd *warmstartCmd) check(c config.Config) error {
	if c.Trainer.URL != "" {
		return &config.Error{Place: "trainer.url", Msg: "a warm start makes a new base model, which needs a trainer here",
			Hint: `leave it out for this command: --set trainer.url=""`}
	}
	if !trains(c) {
		return &config.Error{Place: "algorithm.name", Msg: c.Algorithm.Name + " trains no weights",
			Hint: "leave the warm start out, or choose empo2 or grpo"}
	}
	for _, f := range []struct {
		bad        bool
		flag, hint string
	}{
		{cmd.Steps != nil && *cmd.Steps < 1, "--steps", "at least 1"},
		{cmd.Epochs != nil && !(*cmd.Epochs > 0 && *cmd.Epochs <= 1e6), "--epochs", "a number above 0, at most 1e6"},
		{cmd.Steps != nil && cmd.Epochs != nil, "--steps and --epochs", "give one of them"},
		{cmd.Batch < 1, "--batch", "at least 1"},
		{!(cmd.LearningRate > 0 && cmd.LearningRate < 1), "--learning-rate", "above 0 and below 1, for example 0.0005"},
		{cmd.WarmupSteps < -1, "--warmup-steps", "0 or more"},
		{cmd.Rank < 1 || cmd.Rank > 1024, "--rank", "1 to 1024"},
		{!(cmd.SaveSeconds >= 0 && cmd.SaveSeconds < 1e6), "--save-seconds", "0 or more"},
		{!(cmd.Holdout >= 0 && cmd.Holdout <= 0.5), "--holdout", "0 to 0.5"},
	} {
		if f.bad {
			return fmt.Errorf("%w: %s cannot be used with this value\n  hint: %s", errUsage, f.flag, f.hint)
		}
	}
	if c.Trainer.Quantize != "none" {
		return &config.Error{Place: "trainer.quantize", Msg: "an adapter cannot be merged into a 4-bit base",
			Hint: "run the warm start with --set trainer.quantize=none"}
	}
	return nil
}

// train trains, merges and reports.
func (w *warmStart) train(ctx context.Context, data []demos.Demonstration, t tools, out *console, log zerolog.Logger) (
	err error) {
	made := firstMissing(w.work)
	lock, err := w.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.leave(ctx, err, made), lock.Close()) }()
	if err := w.begin(log); err != nil {
		return err
	}
	root, err := filepath.Abs(w.work)
	if err != nil {
		return err
	}
	trainer := w.trainer(t, root, log)
	defer func() { err = errors.Join(err, trainer.Close()) }()
	phase := watchdog.Phase{Name: watchdog.PhaseStart, Since: time.Now(), Detail: "trainer"}
	out.phase("", phase)
	defer out.endPhase("")
	if err := trainer.Restore(ctx, 0); err != nil {
		return err
	}
	examples, err := w.examples(ctx, data, trainer, t, out)
	if err != nil {
		return err
	}
	training := &warmstart.Training{
		Config: w.training, Trainer: trainer, Examples: examples, Dir: root, SaveEvery: seconds(w.cmd.SaveSeconds),
		Budget: process.NewBudget(w.config.Trainer.Restarts), MaxIncomplete: w.config.Trainer.MaxIncompleteSteps, Log: log,
	}
	progress := newWarmProgress(w.training, out)
	training.OnStep = progress.step
	if w.cmd.JSON {
		training.OnStep = func(s warmstart.Step) {
			progress.phase(s)
			out.json("step", s)
		}
	}
	result, err := training.Run(ctx)
	if err != nil {
		return err
	}
	out.phase("", watchdog.Phase{Name: watchdog.PhaseWarmStart, Since: time.Now(), Detail: "merging the adapter"})
	if err := trainer.Close(); err != nil { // its memory is free before the merge
		return err
	}
	return w.finish(ctx, result, t, out, log)
}

// trainer is the run's own trainer with the adapter of the warm start.
func (w *warmStart) trainer(t tools, root string, log zerolog.Logger) *trainerbridge.Local {
	trainer := newTrainer(w.config, t, root, log)
	trainer.Process.Formats = []string{"peft", "merged"} // what could not be merged is refused at once
	trainer.Client.Rank, trainer.Client.Alpha = w.settings.Rank, w.settings.Alpha
	return trainer
}

// examples tokenizes the data with the trainer's tokenizer and the model's chat
// template.
func (w *warmStart) examples(ctx context.Context, data []demos.Demonstration, trainer *trainerbridge.Local, t tools,
	out *console) ([]warmstart.Example, error) {
	codec := trainerCodec{trainer.Codec()}
	defer codec.Close()
	codec.TemplateArgs = w.config.Sampler.TemplateArgs
	template, err := served{tokenizer: codec, control: codec, renderer: codec}.newTemplate(ctx, w.config)
	if err != nil {
		return nil, err
	}
	tokenizer := warmstart.Tokenizer{Template: template, Thinking: chat.Thinking(w.config.Sampler.Thinking)}
	var examples []warmstart.Example
	tokens, trained, skipped := 0, 0, 0
	for _, d := range data {
		e, err := tokenizer.Example(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", w.cmd.Data, d.Line, err)
		}
		if t.context > 0 && e.Longest > t.context {
			if !w.cmd.SkipLong {
				return nil, fmt.Errorf("%w: --data %s: line %d has %d tokens, but the model's context has %d\n"+
					"  hint: shorten it, or leave out such lines with --skip-long",
					errUsage, w.cmd.Data, d.Line, e.Longest, t.context)
			}
			skipped++
			continue
		}
		examples = append(examples, e)
		tokens, trained = tokens+e.Tokens, trained+e.Trained
	}
	if skipped > 0 {
		out.note("%d conversations exceed the model's context of %d tokens and are left out", skipped, t.context)
	}
	if len(examples) == 0 {
		return nil, fmt.Errorf("%w: --data %s: no conversation is left\n  hint: shorten them", errUsage, w.cmd.Data)
	}
	out.note("%s, %d tokens, %d of them trained; %s of %s", counted(len(examples), "demonstration"), tokens,
		trained, counted(w.training.Steps, "step"), counted(w.training.Batch, "conversation"))
	return examples, nil
}

// finish writes the merged model and removes the work folder.
func (w *warmStart) finish(ctx context.Context, result warmstart.Result, t tools, out *console,
	log zerolog.Logger) error {
	folder, err := filepath.Abs(w.out)
	if err != nil {
		return err
	}
	first, last := result.History[0], result.History[len(result.History)-1]
	about := map[string]any{
		"settings": w.settings, "trained_on": result.Train, "held_out": result.Held,
		"adapter_sha256": result.Adapter.Files["adapter_model.safetensors"],
		"loss":           last.Loss, "held_out_loss": last.HeldOut, "held_out_loss_before": first.HeldOut,
		"left_out_lines": result.LeftOut,
	}
	converter := trainerbridge.Converter{Python: t.python, SourceDir: t.sources, Inherit: w.config.Trainer.Env, Log: log}
	err = converter.Merge(ctx, trainerbridge.Merge{Model: t.model, Adapter: result.Adapter.Dir, Out: folder,
		Dtype: w.config.Trainer.Dtype, About: about})
	if err != nil {
		return fmt.Errorf("merge the adapter: %w", err)
	}
	if err := os.RemoveAll(w.work); err != nil {
		return err
	}
	if w.cmd.JSON {
		about["out"] = w.out
		out.json("warmstart", about)
		return nil
	}
	out.print("%s is the warm-started model; %s", w.out, w.next())
	return nil
}
