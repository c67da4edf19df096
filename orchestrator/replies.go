package orchestrator

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/rollout"
)

// Replies counts the policy's replies of a step.
type Replies struct {
	N     int `json:"n"`
	Empty int `json:"empty"` // without an action, for example only a thought
	Cut   int `json:"cut"`   // cut off at rollout.max_tokens
	// NoAction are those that are not empty, and whose action the environment refused.
	NoAction int `json:"no_action"`
	// Unfinished are those of the empty ones that hold only a thought without its end.
	Unfinished int `json:"unfinished,omitempty"`
	Tips       int `json:"tips,omitempty"`    // replies to the request for a tip
	NoTips     int `json:"no_tips,omitempty"` // of those, without a tip
	// CutTips are those whose tip ends early, at the limit of tokens or of characters.
	CutTips int `json:"cut_tips,omitempty"`
	// Tokens and TipTokens were sampled for the replies, and for the tips.
	Tokens    int `json:"tokens,omitempty"`
	TipTokens int `json:"tip_tokens,omitempty"`
}

func (r *Replies) add(t rollout.Trajectory) {
	for _, turn := range t.Turns {
		r.N++
		r.Tokens += len(turn.IDs)
		switch {
		case turn.Action == "":
			r.Empty++
			if _, unfinished := chat.SplitThought(turn.Opened + turn.Text); unfinished {
				r.Unfinished++
			}
		case turn.Invalid:
			r.NoAction++
		}
		if turn.Finish == sampler.FinishLength {
			r.Cut++
		}
	}
	if t.TipIDs != nil {
		r.Tips++
		r.TipTokens += len(t.TipIDs)
		if t.Tip == "" {
			r.NoTips++
		} else if t.TipCut {
			r.CutTips++
		}
	}
}

// What goes wrong with the replies and episodes of a step.
const (
	cutReplies = iota
	noActionReplies
	emptyReplies
	cutTips
	missingTips
	fullEpisodes
	failedEpisodes
	shortcomings // their number
)

// shares are the shares of a step's replies, tips and episodes with each shortcoming.
type shares [shortcomings]float64

// worth is the share from which a shortcoming is worth a warning, and worse how much
// it must grow for a further one.
const (
	worth = 0.1
	worse = 0.2 - 1e-9 // shares are quotients
)

// sharesOf returns the shares of a step.
func sharesOf(r Replies, stops map[rollout.StopReason]int) shares {
	episodes := 0
	for _, n := range stops {
		episodes += n
	}
	share := func(n, all int) float64 { return float64(n) / float64(max(1, all)) }
	return shares{
		cutReplies: share(r.Cut, r.N), noActionReplies: share(r.NoAction, r.N), emptyReplies: share(r.Empty, r.N),
		cutTips: share(r.CutTips, r.Tips), missingTips: share(r.NoTips, r.Tips),
		fullEpisodes:   share(stops[rollout.StopContextFull], episodes),
		failedEpisodes: share(stops[rollout.StopFailed], episodes),
	}
}

// with returns what a run has warned of after a step, and what is new in the step: a
// shortcoming is reported once and when it has become worse.
func (before shares) with(now shares) (after shares, news []int) {
	after = before
	for i, share := range now {
		if share >= worth && (before[i] == 0 || share >= before[i]+worse) {
			after[i], news = share, append(news, i)
		}
	}
	return after, news
}

// replyReporter warns if many replies of a step are cut off, empty or refused, if many
// tips are cut off or missing, and if many episodes fail or fill the context.
type replyReporter struct {
	ledger *ledger.Ledger
	log    zerolog.Logger
}

// report logs and records as events what is new in a step. It returns what the run
// has warned of so far.
func (r replyReporter) report(ctx context.Context, in Sampled, before shares) (shares, error) {
	var replies Replies
	stops := map[rollout.StopReason]int{}
	for _, group := range in.Groups {
		for _, t := range group {
			stops[t.Stop]++
			if !t.Failed() {
				replies.add(t)
			}
		}
	}
	after, news := before.with(sharesOf(replies, stops))
	for _, i := range news {
		text := replies.warning(i, stops)
		r.log.Warn().Int64("step", in.Plan.Step).Msg(text)
		if err := r.ledger.Event(ctx, in.Plan.Step, "replies", text); err != nil {
			return before, err
		}
	}
	return after, nil
}

// evaluation logs and records as events what is new in an evaluation: what neither the
// training nor an earlier evaluation has warned of.
func (r replyReporter) evaluation(ctx context.Context, e Evaluation, training shares, earlier *shares) error {
	before := training
	for i := range before {
		before[i] = max(before[i], earlier[i])
	}
	after, news := before.with(sharesOf(e.Replies, e.Stops))
	*earlier = after
	for _, i := range news {
		text := "in the evaluation " + e.Replies.warning(i, e.Stops)
		r.log.Warn().Int64("step", e.Step).Msg(text)
		if err := r.ledger.Event(ctx, e.Step, "replies", text); err != nil {
			return err
		}
	}
	return nil
}

// warning says how large a shortcoming is, and which key may help.
func (r Replies) warning(shortcoming int, stops map[rollout.StopReason]int) string {
	episodes := 0
	for _, n := range stops {
		episodes += n
	}
	switch shortcoming {
	case cutReplies:
		return fmt.Sprintf("%d of %d replies are cut off at rollout.max_tokens: raise it in a new run", r.Cut, r.N)
	case noActionReplies:
		return fmt.Sprintf("the environment refused the actions of %d of %d replies: show the policy the form of an action "+
			"in prompt.template, or begin with empo2 warmstart; empo2 show has the replies", r.NoAction, r.N)
	case emptyReplies:
		return r.emptyText()
	case cutTips:
		return fmt.Sprintf("%d of %d tips are cut off: raise reflection.max_tokens in a new run, or max_tip_characters in "+
			"the prompt template", r.CutTips, r.Tips)
	case missingTips:
		return fmt.Sprintf("%d of %d replies to the request for a tip hold none: a model that thinks may have written only "+
			"its thought; raise reflection.max_tokens in a new run", r.NoTips, r.Tips)
	case fullEpisodes:
		return fmt.Sprintf("%d of %d episodes ended with a full context: raise sampler.max_model_len, or lower "+
			"rollout.max_turns, in a new run", stops[rollout.StopContextFull], episodes)
	}
	return fmt.Sprintf("%d of %d episodes failed: empo2 show RUN --failed has the reasons; rollout.retries repeats an "+
		"episode more often", stops[rollout.StopFailed], episodes)
}

// Warnings says what is wrong with many replies, tips or episodes of the step, and
// which key may help.
func (m StepMetrics) Warnings() []string { return m.Replies.warnings(m.Stops) }

// Warnings says what is wrong with many replies or episodes, and which key may help.
func (e Evaluation) Warnings() []string { return e.Replies.warnings(e.Stops) }

func (r Replies) warnings(stops map[rollout.StopReason]int) (out []string) {
	for i, share := range sharesOf(r, stops) {
		if share >= worth {
			out = append(out, r.warning(i, stops))
		}
	}
	return out
}

// emptyText says how many replies have no action, and what may help.
func (r Replies) emptyText() string {
	if r.Unfinished > 0 {
		return fmt.Sprintf("%d of %d replies are empty, and %d of them hold only a thought that was cut off: raise "+
			"rollout.max_tokens, or switch thinking off with sampler.template_args in a new run", r.Empty, r.N, r.Unfinished)
	}
	return fmt.Sprintf("%d of %d replies are empty: a model that thinks may have written only its thought; raise "+
		"rollout.max_tokens, or switch thinking off with sampler.template_args in a new run", r.Empty, r.N)
}
