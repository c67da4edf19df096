package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

type tryCmd struct {
	common
	Target      string   `arg:"" name:"run" optional:"" placeholder:"RUN[@VERSION]" help:"Run to try. Default: none."`
	Task        string   `default:"0" placeholder:"N|ID" help:"Number of the task in the split, or its id."`
	Split       string   `default:"train" enum:"train,eval,test" help:"Tasks to choose from: train, eval or test."`
	Like        string   `placeholder:"STEP/GROUP/EPISODE" help:"Repeat a training episode of RUN."`
	Tips        []string `sep:"none" placeholder:"none|auto|TEXT" help:"Tips to show; auto: the run's. Repeatable."`
	K           int      `short:"k" default:"8" help:"Number of replies."`
	Prompt      string   `placeholder:"FILE" help:"Prompt template. Default: prompt.template."`
	Watch       bool     `help:"Repeat each time that the prompt template is saved."`
	Turns       int      `default:"1" help:"Turns to play; 0: to the end of the episode."`
	Seed        *uint64  `help:"Seed of the replies. Default: run.seed."`
	Temperature *float64 `placeholder:"T" help:"Sampling temperature. Default: rollout.temperature."`
	Tokens      bool     `help:"Show the tokens of prompts and replies: each id and its text."`
	JSON        bool     `help:"Print JSON lines, with the ids that the server got and returned."`
}

// Help is shown by empo2 try --help.
func (tryCmd) Help() string {
	return `Samples replies of the policy to the prompt of a task, and gives each to the environment.
Shown are the prompt, each reply as soon as it has come, the action in it, the reward,
and whether the reply was cut. The prompt is the one that a run sends, id for id. Nothing
is trained or stored, and a run may be running meanwhile.

With --watch, server and environment stay up, and every save of the prompt template is
tried at once, with the same seeds. Ctrl-C ends it.

Examples:
  empo2 try                                      the base model on the first task
  empo2 try --prompt mine.tmpl --watch           edit mine.tmpl in another window
  empo2 try vault --tips auto --task 3           the newest version, with the run's tips
  empo2 try vault@12 --tips "at oak pull wax" -k 4 --turns 0
  empo2 try vault --like 12/3/0 --prompt mine.tmpl
                                                 an episode of the run with another prompt
  empo2 try --set rollout.max_tokens=64 --json | jq 'select(.event=="reply").data.action'`
}

func (cmd *tryCmd) Run(ctx context.Context, out *console) (err error) {
	if err := cmd.check(); err != nil {
		return err
	}
	s, err := openSource(ctx, cmd.common, cmd.Target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if len(cmd.Tips) == 1 && cmd.Tips[0] == tipsAuto {
		if err := s.checkMemory(); err != nil { // before anything is started
			return err
		}
	}
	if cmd.Temperature != nil {
		s.config.Rollout.Temperature = *cmd.Temperature
	}
	if err := cmd.choosePrompt(&s.config); err != nil {
		return err
	}
	like, err := cmd.like(ctx, &s)
	if err != nil {
		return err
	}
	p, err := openPlayer(ctx, s, cmd.K, out.logger(cmd.Verbose))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	t := &trial{tryCmd: cmd, player: p, console: out}
	if err := t.prepare(ctx, like); err != nil {
		return err
	}
	if err := t.begin(ctx); err != nil {
		return err
	}
	if cmd.Watch {
		return t.watch(ctx)
	}
	texts, err := t.read()
	if err != nil {
		return err
	}
	return t.round(ctx, texts)
}

// choosePrompt applies --prompt. A faulty template is an error now, before anything is
// started.
func (cmd *tryCmd) choosePrompt(c *config.Config) error {
	if cmd.Prompt != "" {
		c.Prompt.Template = cmd.Prompt
	}
	_, err := readPromptTemplate(*c)
	var fault *config.Error
	if errors.As(err, &fault) && cmd.Prompt != "" {
		fault.Place = "--prompt " + cmd.Prompt
	}
	return err
}

// begin starts the server.
func (t *trial) begin(ctx context.Context) error {
	if err := t.start(ctx, t.console); err != nil {
		return err
	}
	t.sent, t.pieces = &sentPrompts{Backend: t.driver.Backend}, newPieces(t.server.decoder)
	t.driver.Backend = t.sent
	return nil
}

// check refuses flags that make no sense.
func (cmd *tryCmd) check() error {
	t := cmd.Temperature
	switch {
	case cmd.K < 1 || cmd.K > maxReplies:
		return fmt.Errorf("%w: -k %d is out of range\n  hint: 1 to %d", errUsage, cmd.K, maxReplies)
	case cmd.Turns < 0:
		return fmt.Errorf("%w: --turns %d is negative\n  hint: at least 1, or 0 for the whole episode", errUsage, cmd.Turns)
	case t != nil && !(*t >= 0 && *t <= 10): // NaN too
		return fmt.Errorf("%w: --temperature %g is out of range\n  hint: a number from 0 to 10", errUsage, *t)
	case cmd.Like != "" && cmd.Target == "":
		return fmt.Errorf("%w: --like needs a run\n  hint: empo2 try RUN --like %s", errUsage, safetext.Argument(cmd.Like))
	}
	return checkTips(cmd.Tips)
}

// checkTips refuses texts of tips beside none and auto.
func checkTips(tips []string) error {
	if len(tips) > 1 && (slices.Contains(tips, tipsNone) || slices.Contains(tips, tipsAuto)) {
		return fmt.Errorf("%w: --tips none and --tips auto stand alone\n  hint: leave the other --tips out", errUsage)
	}
	return nil
}

// maxReplies bounds -k.
const maxReplies = 1024

// A trial samples replies to one task, once or several times.
type trial struct {
	*tryCmd
	*player
	*console
	task   envs.Task
	seeds  []uint64
	recall rollout.RecallFunc
	tips   string // says which tips are shown
	fixed  *prompt.Template
	sent   *sentPrompts
	pieces *pieces
	texts  prompt.Template // of the round
	live   *liveReply      // of the round; nil: replies are shown when they are complete
}

// prepare chooses the task, the seeds and the tips. like is nil, or the episode to
// repeat.
func (t *trial) prepare(ctx context.Context, like *likeness) (err error) {
	if like != nil {
		t.task, t.recall, t.tips = like.task, like.recall, "with the tips of episode "+t.Like
		t.seeds = seeds(like.seed, t.K)
		t.seeds[0] = like.seed
		if t.Prompt == "" {
			t.fixed = like.prompt
		}
	} else {
		if t.task, err = findTask(t.family, t.Split, t.Task); err != nil {
			return err
		}
		seed := t.config.Run.Seed
		if t.Seed != nil {
			seed = *t.Seed
		}
		t.seeds = seeds(seed, t.K)
	}
	if like == nil || len(t.Tips) > 0 {
		t.recall, t.tips, err = t.player.tips(ctx, t.source, t.Tips)
	}
	if err == nil && t.Watch && (t.fixed != nil || !fileExists(t.config.Prompt.Template)) {
		err = &config.Error{Place: "--watch", Msg: "prompt.template is no file",
			Hint: "empo2 prompt --write prompts writes the built-in templates; edit one and name it with --prompt"}
	}
	return err
}

// seeds returns the seeds of n episodes.
func seeds(parent uint64, n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = sampler.Seed(parent, uint64(i))
	}
	return out
}

// read reads the prompt template.
func (t *trial) read() (prompt.Template, error) {
	if t.fixed != nil {
		return *t.fixed, nil
	}
	return readPromptTemplate(t.config)
}

// round samples all replies with a prompt template. The first reply is sampled
// alone, so that it comes soon.
func (t *trial) round(ctx context.Context, texts prompt.Template) error {
	begun, sum := time.Now(), trySummary{}
	limit, err := t.promptLimit(ctx, t.config, texts, t.task)
	if err != nil {
		return err
	}
	specs := make([]rollout.EpisodeSpec, len(t.seeds))
	for i, seed := range t.seeds {
		specs[i] = t.spec(t.task, seed)
		specs[i].Episode, specs[i].MaxTurns, specs[i].Recall = i, t.turns(), t.recall
		specs[i].MaxPrompt = limit
	}
	scheduler := rollout.Scheduler{Run: t.with(texts).Run, Concurrency: t.config.Rollout.Concurrency,
		Retries: t.config.Rollout.Retries, Log: t.log}
	t.head(texts)
	t.texts, t.live = texts, nil
	if t.screen && !t.JSON && !t.Tokens {
		t.live = &liveReply{trial: t, begun: begun}
		specs[0].Watch = t.live.watch
	}
	phase := watchdog.Phase{Name: watchdog.PhaseSampling, Total: len(specs), Unit: "replies", Since: begun}
	t.phase("", phase)
	defer t.endPhase("")
	defer t.draft("")
	var failed error
	emit := func(e rollout.Trajectory) {
		if ctx.Err() != nil {
			return
		}
		if sum.Replies == 0 && sum.Failed == 0 {
			sum.FirstSeconds = time.Since(begun).Seconds()
		}
		if err := t.show(ctx, texts, e, sum.Replies+sum.Failed == 0); err != nil && failed == nil {
			failed = err
		}
		sum.add(texts, e)
		phase.Done++
		t.phase("", phase)
	}
	scheduler.Sample(ctx, specs[:1], emit)
	scheduler.Sample(ctx, specs[1:], emit)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	sum.Seconds = time.Since(begun).Seconds()
	t.summary(sum)
	if sum.Replies == 0 {
		return fmt.Errorf("no episode was played to its end, %s failed: %s", counted(sum.Failed, "episode"), sum.why)
	}
	return failed
}

// turns is the limit of turns, which is never above the configuration's.
func (t *trial) turns() int {
	limit := t.config.Rollout.MaxTurns
	if t.Turns > 0 && (limit <= 0 || t.Turns < limit) {
		return t.Turns
	}
	return limit
}

// trySummary counts the replies of a round. Means are over episodes.
type trySummary struct {
	Replies int     `json:"episodes"` // that did not fail
	Failed  int     `json:"failed"`
	Success int     `json:"success"`
	Return  float64 `json:"mean_return"`
	Cut     int     `json:"cut"`     // episodes with a reply that was cut
	Empty   int     `json:"empty"`   // episodes with a reply without an action
	Actions int     `json:"actions"` // different first actions
	Tokens  float64 `json:"mean_tokens"`
	Seconds float64 `json:"seconds"`
	actions map[string]bool
	why     string // the first failure
	returns []float64
	tokens  int
	// FirstSeconds is the time until the first reply.
	FirstSeconds float64 `json:"first_seconds"`
}

func (s *trySummary) add(texts prompt.Template, e rollout.Trajectory) {
	if e.Failed() {
		s.Failed++
		s.why = cmp.Or(s.why, e.Err)
		return
	}
	s.Replies++
	s.returns = append(s.returns, e.EnvReturn)
	if e.Success {
		s.Success++
	}
	cut, empty := false, false
	for i, turn := range e.Turns {
		s.tokens += len(turn.IDs)
		cut, empty = cut || turn.Finish == sampler.FinishLength, empty || turn.Action == ""
		if i == 0 {
			if s.actions == nil {
				s.actions = map[string]bool{}
			}
			s.actions[texts.Action(turn.Action)] = true
		}
	}
	if cut {
		s.Cut++
	}
	if empty {
		s.Empty++
	}
	sum := 0.0
	for _, r := range s.returns {
		sum += r
	}
	n := float64(s.Replies)
	s.Return, s.Tokens, s.Actions = sum/n, float64(s.tokens)/n, len(s.actions)
}

// flat reports whether several episodes all have the same return.
func (s *trySummary) flat() bool {
	return len(s.returns) > 1 && slices.Min(s.returns) == slices.Max(s.returns)
}
