package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// modeTexts say how an episode is sampled and trained.
var modeTexts = map[orchestrator.Mode]string{
	orchestrator.OnPolicy:     "without tips",
	orchestrator.OnPolicyTips: "with tips",
	orchestrator.OffPolicy:    "with tips, trained without them",
}

// printConversation prints an episode: what the policy saw, wrote and was given.
// authors are the episodes that wrote the tips that it saw.
func printConversation(out *console, e view.Episode, authors map[prompt.Tip]view.Place) {
	t := e.Trajectory
	out.print("%s episode %s, version %d, %s", e.Kind, e.Place, e.Version, modeTexts[orchestrator.Mode(e.Mode)])
	out.print("task %s", head(e.Task, columns-5))
	out.print("return %s, score %s, %s, %s in %.1f s", number(e.Return), number(e.Score), endOf(e),
		counted(e.Turns, "turn"), t.Took.Seconds())
	if s := e.Estimate; s != nil {
		trained := counted(s.Tokens, "token") + " trained"
		if s.Tokens == 0 {
			trained = "not trained"
		}
		out.print("advantage %+.4f, intrinsic reward %s, %s", s.Advantage, number(s.Bonus), trained)
	}
	if t.Slim {
		out.print("its prompts and replies were dropped (run.keep_episodes); states and actions are left")
	}
	for i, turn := range t.Turns {
		out.print("%s", rule(fmt.Sprintf("turn %d", i+1)))
		printTurn(out, turn, authors)
	}
	if final := strings.TrimSpace(t.Final.Feedback + "\n" + t.Final.State); final != "" {
		out.print("%s", rule("end"))
		out.block(final)
	}
	if e.Error != "" {
		out.print("%s", rule("error"))
		out.block(e.Error)
	}
	if e.Tip != "" {
		cut := ""
		if t.TipCut {
			cut = ", cut"
		}
		out.print("%s", rule("tip that was written after the episode"+cut))
		out.block(e.Tip)
	}
}

// endOf says how an episode ended.
func endOf(e view.Episode) string {
	if e.Success {
		return "success, " + e.Stop
	}
	return cmp.Or(e.Stop, "unfinished")
}

func printTurn(out *console, turn rollout.Turn, authors map[prompt.Tip]view.Place) {
	printSpans(out, turn, authors)
	printReply(out, turn)
	line := fmt.Sprintf("reward %s, score %s", number(turn.Reward), number(turn.Score))
	if turn.Similar >= 0 {
		line += fmt.Sprintf(", %d similar in memory", turn.Similar)
	}
	if n := len(turn.Dropped); n > 0 {
		line += ", " + counted(n, "tip") + " not shown"
	}
	out.print("%s", line)
}

// printSpans prints what a turn added to the prompt.
func printSpans(out *console, turn rollout.Turn, authors map[prompt.Tip]view.Place) {
	if len(turn.Prompt) == 0 && turn.Observation.State != "" { // an old episode
		out.print("state")
		out.block(turn.Observation.State)
	}
	for _, message := range turn.Prompt {
		for _, span := range message.Spans {
			if span.Text == "" {
				continue
			}
			heading := string(span.Kind)
			if span.Kind == chat.TipsSpan && authors != nil {
				heading += tipSources(turn, authors)
			}
			out.print("%s", head(heading, columns))
			out.block(span.Text)
		}
	}
}

// printReply prints the policy's reply in a turn.
func printReply(out *console, turn rollout.Turn) {
	heading := "reply: " + replyLength(turn)
	if len(turn.Prompt) == 0 && len(turn.IDs) == 0 { // an old episode
		heading = "action" + strings.TrimPrefix(replyLength(turn), counted(0, "token"))
	}
	out.print("%s", heading)
	out.block(cmp.Or(turn.Text, turn.Action))
}

// replyLength says how long the policy's reply is, and whether it was cut or is empty.
func replyLength(turn rollout.Turn) string {
	length := counted(len(turn.IDs), "token")
	switch {
	case turn.Finish == sampler.FinishLength:
		length += ", CUT at rollout.max_tokens"
	case turn.Action == "":
		length += ", EMPTY"
	}
	return length
}

// tipSources names the episodes that wrote the tips of a turn.
func tipSources(turn rollout.Turn, authors map[prompt.Tip]view.Place) string {
	var names []string
	for _, tip := range turn.Tips {
		name := "another run"
		if tip.Author == "" { // a run of an earlier version
			name = "an earlier episode"
		}
		if author, ok := authors[tip]; ok {
			name = author.String()
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return ""
	}
	return ", written by " + strings.Join(names, ", ")
}
