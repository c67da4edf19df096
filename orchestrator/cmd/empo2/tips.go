package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/view"
)

type tipsCmd struct {
	runArgument
	Effect bool   `help:"Compare the returns of episodes that saw a tip with those that did not."`
	Recall string `placeholder:"TEXT" help:"Show the tips that the memory recalls for this state."`
	Scope  string `placeholder:"NAME" help:"Only tips of this scope, for example of a task."`
	Limit  int    `default:"20" help:"Number of tips to show; 0: all."`
	JSON   bool   `help:"Print JSON, one line per tip."`
}

// Help is shown by empo2 tips --help.
func (tipsCmd) Help() string {
	return `Lists the tips of a run: how many training episodes saw each, which episode wrote it
first, and whether it is in the memory. The run may be running. Nothing is changed.

--effect compares the mean return of episodes that saw a tip with that of episodes of
the same task that did not, between the first and the last step that showed the tip in
this task. This is an association: the memory chooses who sees a tip. With many tips,
1 of 20 intervals excludes 0 by chance.

Examples:
  empo2 tips vault
  empo2 tips vault --effect
  empo2 tips vault --recall "Levers: jade, ruby. Door 1 of 3 is red."
  empo2 tips vault --effect --limit 0 --json`
}

func (cmd *tipsCmd) Run(ctx context.Context, out *console) error {
	if cmd.Limit < 0 {
		return fmt.Errorf("%w: --limit %d is negative\n  hint: --limit 0 shows all tips", errUsage, cmd.Limit)
	}
	if cmd.Effect && cmd.Recall != "" {
		return fmt.Errorf("%w: --effect and --recall exclude each other", errUsage)
	}
	_, r, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	if cmd.Recall != "" {
		return cmd.recall(ctx, out, r)
	}
	q := view.TipQuery{Scope: cmd.Scope, ByDifference: cmd.Effect, Limit: cmd.Limit}
	tips, all, err := r.Tips(ctx, q)
	if err != nil {
		return err
	}
	if cmd.Scope != "" {
		all = len(tips)
	}
	if cmd.JSON {
		for _, t := range tips {
			out.json("tip", t)
		}
		return nil
	}
	cmd.print(out, tips, all)
	return nil
}

func (cmd *tipsCmd) print(out *console, tips []view.Tip, all int) {
	switch {
	case all == 0:
		out.print("no tips")
		return
	case cmd.Effect:
		out.print("%9s %6s  %9s %6s  %10s  %-21s %s", "seen", "n", "others", "n", "difference", "95 %", "written by")
	default:
		out.print("%8s %8s %9s %9s  %-11s %s", "seen by", "written", "stored", "score", "written by", "scope")
	}
	removed := 0
	for _, t := range tips {
		author := "–"
		if t.Author != nil {
			author = t.Author.String()
		}
		score := "–"
		if t.Stored > 0 {
			score = number(t.Score)
		}
		if cmd.Effect {
			out.print("%s %s", effectRow(t.Association), author)
			if mark := markOf(t); mark != "" {
				out.print("  %s:", mark)
			}
		} else {
			out.print("%8d %8d %9s %9s  %-11s %s", t.Seen, t.Written, storedAs(t), score, author, tail(t.Scope, 29))
		}
		out.block(t.Text)
		if t.Stored == 0 {
			removed++
		}
	}
	if removed > 0 {
		out.print("%d of these tips: removed from the memory", removed)
	}
	if n := len(tips); n == cmd.Limit && n < all {
		out.print("%d of %d tips; --limit 0 shows all", n, all)
	} else if n == cmd.Limit && cmd.Scope != "" {
		out.print("--limit 0 shows all tips of the scope")
	}
	if cmd.Effect {
		out.print("Mean returns of episodes that saw the tip and of others of the same task and")
		out.print("steps. This is an association: the memory chooses who sees a tip.")
	}
}

// markOf says that a tip is removed or pinned.
func markOf(t view.Tip) string {
	switch {
	case t.Stored == 0:
		return "removed"
	case t.Pinned:
		return "pinned"
	}
	return ""
}

// storedAs is the number of a tip's copies in the memory, with its mark.
func storedAs(t view.Tip) string {
	if t.Stored == 0 {
		return markOf(t)
	}
	return strings.TrimSpace(fmt.Sprint(t.Stored, " ", markOf(t)))
}

// effectRow is an association in one line.
func effectRow(a *view.Association) string {
	if a == nil {
		return fmt.Sprintf("%9s %6s  %9s %6s  %10s  %-21s", "–", "–", "–", "–", "–", "nothing to compare")
	}
	interval := "no interval"
	if a.Low != nil {
		interval = fmt.Sprintf("%s to %s", number(*a.Low), number(*a.High))
	}
	return fmt.Sprintf("%9s %6d  %9s %6d  %10s  %-21s", number(a.Seen.Mean), a.Seen.N, number(a.Others.Mean), a.Others.N,
		fmt.Sprintf("%+.4g", a.Difference), interval)
}

// recall shows what the memory recalls for a state.
func (cmd *tipsCmd) recall(ctx context.Context, out *console, r *view.Run) error {
	found, err := recallIn(ctx, r, cmd.Scope, cmd.Recall)
	switch {
	case err != nil:
		return err
	case len(found) == 0 && cmd.Scope != "":
		return &config.Error{Place: "--scope", Msg: fmt.Sprintf("the memory has no scope %q", cmd.Scope),
			Hint: "empo2 tips RUN --json prints the scopes; without --scope all are searched"}
	case len(found) == 0:
		return &config.Error{Place: "--recall", Msg: "the memory of the run has no tips",
			Hint: "empo2 show RUN shows its steps"}
	}
	if cmd.JSON {
		for _, in := range found {
			out.json("recalled", in)
		}
		return nil
	}
	tips, similar := mostSimilar(found), 0
	for _, in := range found {
		similar += in.Similar
	}
	if len(found) == 1 {
		out.print("%d similar in scope %s; %s recalled", similar, tail(found[0].Scope, 40), are(len(tips), "tip"))
	} else {
		out.print("%d similar in %d scopes; %s recalled", similar, len(found), are(len(tips), "tip"))
	}
	for i, t := range tips {
		if i == cmd.Limit && i > 0 {
			out.print("%d of %d tips; --limit 0 shows all", i, len(tips))
			break
		}
		out.print("%d. score %s, written by %s, version %d", i+1, number(t.Score), view.Place{Step: t.Step, Group: t.Group,
			Episode: t.Episode}, t.Version)
		if len(found) > 1 {
			out.print("   scope %s, similarity %.2f", tail(t.Scope, 40), t.Similarity)
		}
		out.block(t.Text)
	}
	return nil
}

// are counts things that something was done to: "1 tip is", "2 tips are".
func are(n int, thing string) string {
	if n == 1 {
		return counted(n, thing) + " is"
	}
	return counted(n, thing) + " are"
}
