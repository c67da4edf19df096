package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

type showCmd struct {
	runArgument
	Place    string `arg:"" optional:"" placeholder:"STEP[/GROUP[/EPISODE]]" help:"What to show. Default: all steps."`
	Best     bool   `xor:"which" help:"Show the episode with the highest return."`
	Worst    bool   `xor:"which" help:"Show the episode with the lowest return."`
	Cut      bool   `help:"Only episodes with a reply that was cut at rollout.max_tokens."`
	Failed   bool   `help:"Only episodes that failed."`
	WithTips bool   `help:"Only episodes that saw a tip."`
	Kind     string `default:"training" enum:"training,eval,test,command,ab" help:"${enum}. command: of empo2 eval."`
	JSON     bool   `help:"Print JSON lines. An episode that is shown alone has its ids and log-probs."`
}

// Help is shown by empo2 show --help.
func (showCmd) Help() string {
	return `Shows the steps of a run, the episodes of a step or of a group, or the conversation of
one episode. The run may be running. Nothing is changed.

In a conversation, the lines after │ are the texts of environment, policy and memory.
┊ continues a line that is too long. Control characters are written as escapes.

Examples:
  empo2 show vault                     the steps and their evaluations
  empo2 show vault 12                  the episodes of step 12
  empo2 show vault 12/3/0              the conversation of an episode
  empo2 show vault --best --with-tips  the best episode that saw a tip
  empo2 show vault 12 --cut            those of step 12 with a reply that was cut
  empo2 show vault --failed            those that failed, with their errors
  empo2 show vault 48 --kind eval      those of the evaluation after step 48
  empo2 show vault 12/3/0 --json | jq .data.trajectory.turns`
}

func (cmd *showCmd) Run(ctx context.Context, out *console) error {
	place, err := view.ParsePlace(cmd.Place)
	if err != nil {
		return &config.Error{Place: "place", Msg: err.Error(),
			Hint: "write STEP, STEP/GROUP or STEP/GROUP/EPISODE, for example 12/3/0"}
	}
	dir, r, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	q := view.Query{In: place, Cut: cmd.Cut, Failed: cmd.Failed, WithTips: cmd.WithTips}
	if cmd.Kind != "training" {
		q.Kind = cmd.Kind
	}
	err = cmd.show(ctx, out, r, q)
	if errors.Is(err, view.ErrNone) {
		err = &config.Error{Place: dir, Msg: fmt.Sprintf("no such episode: %s", cmd.asked()),
			Hint: "empo2 show RUN lists the steps, and empo2 show RUN STEP lists the episodes of a step"}
		if place.Step >= 0 && place.Group < 0 && cmd.asked() == cmd.Place {
			err = &config.Error{Place: dir, Msg: fmt.Sprintf("no such step: %d", place.Step),
				Hint: "empo2 show RUN lists the steps"}
		}
	}
	return err
}

// asked repeats what the user asked for.
func (cmd *showCmd) asked() string {
	text := cmd.Place
	for _, f := range []struct {
		set  bool
		name string
	}{
		{cmd.Best, "--best"}, {cmd.Worst, "--worst"}, {cmd.Cut, "--cut"}, {cmd.Failed, "--failed"},
		{cmd.WithTips, "--with-tips"}, {cmd.Kind != "training", "--kind " + cmd.Kind},
	} {
		if f.set && text != "" {
			text += " "
		}
		if f.set {
			text += f.name
		}
	}
	return text
}

func (cmd *showCmd) show(ctx context.Context, out *console, r *view.Run, q view.Query) error {
	switch {
	case cmd.Best || cmd.Worst:
		e, err := r.Best(ctx, q, cmd.Worst)
		if err != nil {
			return err
		}
		return cmd.episode(ctx, out, r, e)
	case q.In.One():
		e, err := r.Episode(ctx, q)
		if err != nil {
			return err
		}
		return cmd.episode(ctx, out, r, e)
	case q == view.Query{In: view.Everywhere}:
		return cmd.steps(ctx, out, r)
	}
	return cmd.list(ctx, out, r, q)
}

// steps prints the steps of the run.
func (cmd *showCmd) steps(ctx context.Context, out *console, r *view.Run) error {
	o, err := r.Overview(ctx)
	if err != nil {
		return err
	}
	steps, err := r.Steps(ctx)
	if err != nil {
		return err
	}
	going, err := r.Unfinished(ctx)
	if err != nil {
		return err
	}
	if cmd.JSON {
		out.json("run", listedRun{o, runState(r.Dir)})
		for _, s := range steps {
			out.json("step", s)
		}
		if going != nil {
			out.json("unfinished", going)
		}
		return nil
	}
	out.print("%s: %s, version %d, %s", tail(r.Dir, 30), counted(int(o.Steps), "step"), o.Version,
		counted(o.Episodes, "training episode"))
	out.print("run.db %s, %s of evaluations, %d failed", size(o.Bytes), counted(o.Evaluated, "episode"), o.Failed)
	if len(steps) > 0 {
		out.print("%15s%17s%16s", "", "mean return", "success %")
		out.print("%6s%6s%10s%10s%8s%8s%7s%8s%8s", "step", "v", "free", "tips", "free", "tips", "cut %", "failed", "eval %")
	}
	for _, s := range steps {
		out.print("%s", stepRow(s))
		if text := badReplies(s.Replies); text != "" {
			out.print("%12s%s", "", text)
		}
	}
	if going != nil {
		out.print("step %d is not committed: %d of %d episodes are finished", going.Step, going.Episodes, going.Planned)
	}
	return nil
}

// stepRow is a step in one line.
func stepRow(s view.Step) string {
	result := func(e orchestrator.EpisodeStats) (mean, success string) {
		if e.N == 0 {
			return "–", "–"
		}
		return number(e.Return), fmt.Sprintf("%.1f", 100*e.Success)
	}
	free, freeSuccess := result(s.Free)
	tips, tipsSuccess := result(s.Tips)
	cut, evaluated := "–", "–"
	if s.Replies.N > 0 {
		cut = fmt.Sprintf("%.1f", 100*float64(s.Replies.Cut)/float64(s.Replies.N))
	}
	for _, e := range s.Evaluations {
		if e.Kind == "eval" || evaluated == "–" {
			evaluated = fmt.Sprintf("%.1f", 100*e.Success)
		}
	}
	return fmt.Sprintf("%6d%6d%10s%10s%8s%8s%7s%8d%8s", s.Step, s.Version, free, tips, freeSuccess, tipsSuccess, cut,
		s.Failed, evaluated)
}

// badReplies says how many replies had no action that the environment takes; empty: none.
func badReplies(r orchestrator.Replies) string {
	var parts []string
	if r.Empty > 0 {
		parts = append(parts, fmt.Sprintf("%d empty", r.Empty))
	}
	if r.NoAction > 0 {
		parts = append(parts, fmt.Sprintf("%d without a valid action", r.NoAction))
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("of %d replies: %s", r.N, strings.Join(parts, ", "))
}

// list prints episodes as they are read.
func (cmd *showCmd) list(ctx context.Context, out *console, r *view.Run, q view.Query) error {
	n, read := 0, r.Episodes
	if !cmd.JSON && !cmd.Failed && q.In.Step < 0 {
		read = r.List // the texts are not needed
	}
	err := read(ctx, q, func(e view.Episode) error {
		if n++; cmd.JSON {
			out.json("episode", e)
			return ctx.Err()
		}
		if n == 1 {
			out.print("%-11s %-5s %9s %9s %5s %4s %3s %-12s %s", "episode", "mode", "return", "advantage", "turns", "tips",
				"cut", "end", "task")
		}
		out.print("%s", episodeRow(e))
		if e.Error != "" {
			out.block(e.Error)
		}
		return ctx.Err()
	})
	switch {
	case err != nil || n > 0:
	case cmd.asked() == cmd.Place: // there is no such step or group
		err = view.ErrNone
	case !cmd.JSON:
		out.print("none")
	}
	return err
}

// episodeRow is an episode in one line.
func episodeRow(e view.Episode) string {
	advantage, end := "–", e.Stop
	if e.Estimate != nil {
		if advantage = fmt.Sprintf("%+.3f", e.Estimate.Advantage); len(advantage) > 9 {
			advantage = fmt.Sprintf("%+.2g", e.Estimate.Advantage)
		}
	}
	if e.Success {
		end = "success"
	}
	return fmt.Sprintf("%-11s %-5s %9s %9s %5d %4d %3d %-12s %s", e.Place, shortModes[orchestrator.Mode(e.Mode)],
		number(e.Return), advantage, e.Turns, e.TipsShown, e.Cut, end, tail(e.Task, 14))
}

// shortModes are the words of the step line.
var shortModes = map[orchestrator.Mode]string{
	orchestrator.OnPolicy: "on", orchestrator.OnPolicyTips: "+tips", orchestrator.OffPolicy: "off",
}

// shownEpisode is an episode as show --json prints it.
type shownEpisode struct {
	view.Episode
	Trajectory rollout.Trajectory `json:"trajectory"`
	// TrainerLogprobs are those of the trained tokens before the update, in nats.
	TrainerLogprobs sampler.Logprobs `json:"trainer_logprobs,omitempty"`
}

func (cmd *showCmd) episode(ctx context.Context, out *console, r *view.Run, e view.Episode) error {
	if cmd.JSON {
		shown := shownEpisode{Episode: e, Trajectory: e.Trajectory}
		if e.Estimate != nil {
			shown.TrainerLogprobs = e.Estimate.Logprobs
		}
		out.json("episode", shown)
		return nil
	}
	authors, err := r.Authors(ctx, e)
	if err != nil {
		return err
	}
	printConversation(out, e, authors)
	return nil
}
