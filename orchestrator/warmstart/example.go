package warmstart

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/empo2/empo2/orchestrator/demos"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// An Example is a demonstration as tokens: one row, or several if later prompts do
// not only grow.
type Example struct {
	Line    int // of the data
	Rows    []rollout.Row
	Tokens  int // of all rows
	Trained int // tokens that the loss counts
	Longest int // tokens of the longest row
}

// Tokenizer turns demonstrations into examples as an episode's conversation is
// turned into rows. So the prompts have the tokens that the policy sees in
// training, and a reply has the tokens that it samples, the end token included.
type Tokenizer struct {
	Template *chat.Template
	Thinking chat.Thinking
}

// Example tokenizes a demonstration.
func (t Tokenizer) Example(ctx context.Context, d demos.Demonstration) (Example, error) {
	c := rollout.NewConversation(t.Template, rollout.KeepAll, t.Thinking)
	var prompt []chat.Message
	for _, m := range d.Messages {
		message := chat.NewMessage(m.Role, m.Content)
		if m.Role != chat.RoleAssistant {
			prompt = append(prompt, message)
			continue
		}
		if _, err := c.Prompt(ctx, prompt...); err != nil {
			return Example{}, err
		}
		ids, err := t.Template.Reply(ctx, m.Content)
		if err != nil {
			return Example{}, err
		}
		if err := c.AddCompletion(ids, logprobs(len(ids), m.Trained()), m.Content); err != nil {
			return Example{}, err
		}
		prompt = nil
	}
	e, err := newExample(c.Rows(false))
	e.Line = d.Line
	return e, err
}

// logprobs are 0 for a reply to train. A conversation does not train tokens whose
// log-prob is NaN.
func logprobs(n int, trained bool) []float32 {
	if trained {
		return make([]float32, n)
	}
	return slices.Repeat([]float32{float32(math.NaN())}, n)
}

func newExample(rows []rollout.Row) (Example, error) {
	var e Example
	for _, row := range rows {
		trained := 0
		for _, on := range row.LossMask {
			if on {
				trained++
			}
		}
		if trained == 0 {
			continue
		}
		e.Rows = append(e.Rows, row)
		e.Tokens += len(row.Tokens)
		e.Trained += trained
		e.Longest = max(e.Longest, len(row.Tokens))
	}
	if e.Trained == 0 {
		return e, fmt.Errorf("nothing to train")
	}
	return e, nil
}

// rows are the rows of a batch for the trainer. Losses are sums, so every trained
// token weighs 1/n, where n is the number of trained tokens of the batch. The loss
// is then the mean cross-entropy of a token.
func rows(batch []Example) []trainerbridge.Row {
	trained := 0
	for _, e := range batch {
		trained += e.Trained
	}
	var out []trainerbridge.Row
	for _, e := range batch {
		for _, r := range e.Rows {
			n := len(r.Tokens)
			out = append(out, trainerbridge.Row{
				Tokens: r.Tokens, LossMask: r.LossMask, Logprobs: make([]float32, n), Advantages: make([]float32, n),
				ImportanceWeights: slices.Repeat([]float32{1 / float32(trained)}, n),
			})
		}
	}
	return out
}

// sumLoss is the sum of the cross-entropies of the trained tokens, in nats, and
// their number. logprobs are those of each row's tokens[1:].
func sumLoss(rows []trainerbridge.Row, logprobs [][]float32) (sum float64, n int) {
	for i, row := range rows {
		for j, logprob := range logprobs[i] {
			if row.LossMask[j+1] {
				sum -= float64(logprob)
				n++
			}
		}
	}
	return sum, n
}
