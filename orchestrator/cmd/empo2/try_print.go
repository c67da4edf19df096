package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// head prints what is tried.
func (t *trial) head(texts prompt.Template) {
	if t.JSON {
		t.json("try", map[string]any{"source": t.source.String(), "task": t.task.ID, "split": t.Split,
			"template": texts.Name(), "sha256": texts.SHA256(), "tips": t.tips, "replies": len(t.seeds),
			"version": t.policy.Version, "temperature": t.config.Rollout.Temperature})
		return
	}
	t.print("%s, task %s", head(t.source.String(), columns-30), tail(t.task.ID, 22))
	t.print("%s, template %s (sha256 %.12s)", t.tips, tail(texts.Name(), 30), texts.SHA256())
}

// triedTurn is a turn as try --json prints it.
type triedTurn struct {
	// PromptIDs are the ids that the server got, IDs those that it returned. Both are
	// empty if the server takes and returns text.
	PromptIDs []int32          `json:"prompt_ids"`
	IDs       []int32          `json:"ids"`
	Logprobs  sampler.Logprobs `json:"logprobs"` // in nats
	Prompt    []plainMessage   `json:"prompt"`   // what the turn added
	Text      string           `json:"text"`
	Action    string           `json:"action"` // as the environment got it
	Reward    float64          `json:"reward"`
	Score     float64          `json:"score"`
	Cut       bool             `json:"cut"` // at rollout.max_tokens
	Seconds   float64          `json:"seconds"`
	// The tokens with their texts, only with --tokens.
	PromptTokens []token `json:"prompt_tokens,omitempty"`
	Tokens       []token `json:"tokens,omitempty"`

	turn rollout.Turn
}

// triedReply is an episode as try --json prints it. Action, Cut and Reward are those
// of the first turn.
type triedReply struct {
	Number  int         `json:"number"`
	Seed    uint64      `json:"seed"`
	Action  string      `json:"action"`
	Reward  float64     `json:"reward"`
	Cut     bool        `json:"cut"`
	Return  float64     `json:"return"`
	Score   float64     `json:"score"`
	Success bool        `json:"success"`
	Stop    string      `json:"stop"`
	Error   string      `json:"error,omitempty"`
	Turns   []triedTurn `json:"turns"`
}

// show prints an episode. The first one is preceded by its prompt.
func (t *trial) show(ctx context.Context, texts prompt.Template, e rollout.Trajectory, first bool) error {
	r := triedReply{Number: e.Episode + 1, Seed: e.Seed, Return: e.EnvReturn, Score: e.Score, Success: e.Success,
		Stop: string(e.Stop), Error: e.Err}
	for i, turn := range e.Turns {
		tried := triedTurn{IDs: turn.IDs, Logprobs: turn.Logprobs, Text: cmp.Or(turn.Text, turn.Action),
			Action: texts.Action(turn.Action), Reward: turn.Reward, Score: turn.Score, Seconds: turn.Sample.Seconds(),
			Cut: turn.Finish == sampler.FinishLength, PromptIDs: t.sent.take(sampler.Seed(e.Seed, uint64(i))), turn: turn}
		for _, m := range turn.Prompt {
			tried.Prompt = append(tried.Prompt, plainMessage{m.Role, m.Text()})
		}
		if t.Tokens {
			var err error
			if tried.PromptTokens, err = t.pieces.of(ctx, tried.PromptIDs); err != nil {
				return err
			}
			if tried.Tokens, err = t.pieces.of(ctx, tried.IDs); err != nil {
				return err
			}
		}
		r.Turns = append(r.Turns, tried)
	}
	if len(r.Turns) > 0 {
		r.Action, r.Reward, r.Cut = r.Turns[0].Action, r.Turns[0].Reward, r.Turns[0].Cut
	}
	switch {
	case t.JSON:
		t.json("reply", r)
	case first && t.live != nil:
		t.live.finish(r)
	default:
		t.printReply(r, first)
	}
	return nil
}

// title is the heading of a reply.
func (t *trial) title(number int) string { return fmt.Sprintf("reply %d of %d", number, len(t.seeds)) }

// printReply prints an episode for people. Later episodes begin with the same prompt,
// so it is printed once.
func (t *trial) printReply(r triedReply, first bool) {
	if first && len(r.Turns) > 0 {
		t.print("%s", rule("prompt"))
		t.printPrompt(r.Turns[0])
	}
	t.print("%s", rule(t.title(r.Number)))
	for i, turn := range r.Turns {
		if i > 0 {
			t.printPrompt(turn)
		}
		printReply(t.console, turn.turn)
		if len(turn.Tokens) > 0 {
			t.tokens(turn.Tokens)
		}
		t.printOutcome(turn)
	}
	t.printEnd(r)
}

// printOutcome says what the environment got and gave in a turn.
func (t *trial) printOutcome(turn triedTurn) {
	t.print("action %s, reward %s, score %s, %.2f s", head(fmt.Sprintf("%q", turn.Action), 36), number(turn.Reward),
		number(turn.Score), turn.Seconds)
}

// printEnd says how an episode ended.
func (t *trial) printEnd(r triedReply) {
	switch {
	case r.Error != "":
		t.print("FAILED")
		t.block(r.Error)
	case r.Success:
		t.print("success, return %s, %s", number(r.Return), counted(len(r.Turns), "turn"))
	case len(r.Turns) > 1:
		t.print("ended (%s), return %s, %s", r.Stop, number(r.Return), counted(len(r.Turns), "turn"))
	}
}

func (t *trial) printPrompt(turn triedTurn) {
	printSpans(t.console, turn.turn, nil)
	if len(turn.PromptTokens) > 0 {
		t.print("prompt: %s, up to where the policy writes", counted(len(turn.PromptIDs), "token"))
		t.tokens(turn.PromptTokens)
	}
}

// summary prints the counts of a round.
func (t *trial) summary(s trySummary) {
	if t.JSON {
		t.json("summary", s)
		return
	}
	t.print("%s", rule("summary"))
	t.print("%s: success %d, mean return %s, %s, %.0f tokens each", counted(s.Replies, "episode"), s.Success,
		number(s.Return), counted(s.Actions, "different first action"), s.Tokens)
	if s.Cut > 0 {
		t.print("%d with a reply that was CUT: raise rollout.max_tokens (%d)", s.Cut, t.config.Rollout.MaxTokens)
	}
	if s.Empty > 0 {
		t.print("%d with an EMPTY reply", s.Empty)
	}
	if s.Failed > 0 {
		t.print("%d FAILED", s.Failed)
	}
	if s.flat() {
		t.print("all returns are equal: a run learns only from differences")
	}
	began := ""
	if t.live != nil && t.live.first > 0 {
		began = fmt.Sprintf("first token after %.2f s, ", t.live.first.Seconds())
	}
	t.print("%sfirst reply after %.2f s, all after %.2f s", began, s.FirstSeconds, s.Seconds)
}
