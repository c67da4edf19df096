package samplertest

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/empo2/empo2/sampler"
)

// Choice is one possible reply of a scripted policy, without the end token.
type Choice struct {
	Text   string
	Weight float64 // relative to the other choices; not negative
}

// Script is a policy as a function: it returns the possible replies of a version to a prompt. It must be a pure
// function that is safe for concurrent use and returns at least one choice of positive weight. The probability of a
// token is the share of the weights of the choices that continue with it, so that log-probs are exact.
type Script func(version int, prompt []int32) []Choice

// Say returns the script that always replies with text.
func Say(text string) Script {
	return func(int, []int32) []Choice { return []Choice{{text, 1}} }
}

// A Policy is a script and the tokenizer of its choices.
type Policy struct {
	Tokenizer *Tokenizer
	Script    Script
}

// A path is one choice as token ids, with the end token.
type path struct {
	ids    []int32
	weight float64
}

// paths returns the choices of positive weight.
func (p Policy) paths(version int, prompt []int32) []path {
	var paths []path
	for _, c := range p.Script(version, prompt) {
		if c.Weight > 0 {
			paths = append(paths, path{append(p.Tokenizer.Encode(c.Text), p.Tokenizer.end), c.Weight})
		}
	}
	return paths
}

// next returns the tokens of the paths at position k, sorted, with their probabilities.
func next(paths []path, k int) (ids []int32, probs []float64) {
	weights := map[int32]float64{}
	var total float64
	for _, p := range paths {
		weights[p.ids[k]] += p.weight
		total += p.weight
	}
	for id := range weights {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		probs = append(probs, weights[id]/total)
	}
	return ids, probs
}

// follow returns the paths that have id at position k.
func follow(paths []path, k int, id int32) []path {
	var kept []path
	for _, p := range paths {
		if p.ids[k] == id {
			kept = append(kept, p)
		}
	}
	return kept
}

// Sample samples a completion as a server does. If the prompt contains the beginning of the reply, Sample continues it.
// The completion is empty if no choice begins like that.
func (p Policy) Sample(version int, r sampler.Request) sampler.Completion {
	random := rand.New(rand.NewPCG(r.Seed, 0))
	prompt, written := p.splitReply(r.Prompt)
	paths := p.paths(version, prompt)
	for k, id := range written {
		paths = follow(paths, k, id)
	}
	c := sampler.Completion{Finish: sampler.FinishLength}
	for k := len(written); len(c.IDs) < r.MaxTokens && len(paths) > 0; k++ {
		ids, probs := next(paths, k)
		i := draw(random, probs, r)
		c.IDs = append(c.IDs, ids[i])
		c.Logprobs = append(c.Logprobs, float32(math.Log(probs[i])))
		if ids[i] == p.Tokenizer.end {
			c.Finish = sampler.FinishStop
			break
		}
		if text, stopped := stopAt(p.Tokenizer.Decode(c.IDs), r.Stop); stopped {
			c.Text, c.Finish = text, sampler.FinishStop
			return c
		}
		paths = follow(paths, k, ids[i])
	}
	c.Text = p.Tokenizer.Decode(slices.DeleteFunc(slices.Clone(c.IDs),
		func(id int32) bool { return id == p.Tokenizer.end }))
	return c
}

// splitReply splits a prompt after the beginning of the last assistant's message. written is the beginning of the
// reply.
func (p Policy) splitReply(prompt []int32) (read, written []int32) {
	opening := p.Opening()
	for i := len(prompt) - len(opening); i >= 0; i-- {
		if slices.Equal(prompt[i:i+len(opening)], opening) {
			return prompt[:i+len(opening)], prompt[i+len(opening):]
		}
	}
	return prompt, nil
}

// Opening returns the ids that begin an assistant's message.
func (p Policy) Opening() []int32 {
	return append([]int32{Start}, p.Tokenizer.Encode("assistant\n")...)
}

// stopAt returns the text before the first stop string in it.
func stopAt(text string, stops []string) (before string, stopped bool) {
	before = text
	for _, stop := range stops {
		if i := strings.Index(text, stop); i >= 0 && (!stopped || i < len(before)) {
			before, stopped = text[:i], true
		}
	}
	return before, stopped
}

// draw draws an index with the request's temperature, top-k and top-p. At temperature 0 it returns the first of the
// most likely ones.
func draw(random *rand.Rand, probs []float64, r sampler.Request) int {
	best := 0
	for i, p := range probs {
		if p > probs[best] {
			best = i
		}
	}
	if r.Temperature <= 0 {
		return best
	}
	weights := make([]float64, len(probs))
	var total float64
	for i, p := range probs {
		weights[i] = math.Pow(p, 1/r.Temperature)
		total += weights[i]
	}
	if r.Truncated() {
		total = truncate(weights, total, r)
	}
	x := random.Float64() * total
	for i, w := range weights {
		if x -= w; x < 0 {
			return i
		}
	}
	return best
}

// truncate sets the weights that top-k and top-p exclude to 0 and returns the new total.
func truncate(weights []float64, total float64, r sampler.Request) (kept float64) {
	order := make([]int, len(weights))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(weights[j], weights[i]) })
	for n, i := range order {
		if r.TopK > 0 && n >= r.TopK || kept >= r.NucleusP()*total {
			weights[i] = 0
		}
		kept += weights[i]
	}
	return kept
}

// Score returns log π(tokens[i+1] | tokens[:i+1]) in nats, as a trainer does: len(tokens)-1 values. Tokens outside of
// the assistant's messages have the value 0, and tokens that the script never writes have −30. If there is no
// assistant's message, Score looks for a complete or incomplete reply of the script at the end of tokens.
func (p Policy) Score(version int, tokens []int32) []float32 {
	scores := make([]float32, max(len(tokens)-1, 0))
	opening, found := p.Opening(), false
	for i := 0; i+len(opening) <= len(tokens); i++ {
		if slices.Equal(tokens[i:i+len(opening)], opening) {
			p.scoreMessage(version, tokens, i+len(opening), scores)
			found = true
		}
	}
	for i := 1; i < len(tokens) && !found; i++ {
		if found = p.canWrite(version, tokens[:i], tokens[i:]); found {
			p.scoreMessage(version, tokens, i, scores)
		}
	}
	return scores
}

// canWrite reports whether a choice after prompt begins with ids.
func (p Policy) canWrite(version int, prompt, ids []int32) bool {
	return slices.ContainsFunc(p.paths(version, prompt), func(c path) bool {
		return len(ids) <= len(c.ids) && slices.Equal(ids, c.ids[:len(ids)])
	})
}

// scoreMessage fills the scores of the reply that begins at tokens[from].
func (p Policy) scoreMessage(version int, tokens []int32, from int, scores []float32) {
	paths := p.paths(version, tokens[:from])
	for i := from; i < len(tokens); i++ {
		scores[i-1] = -30
		if len(paths) > 0 {
			ids, probs := next(paths, i-from)
			if j := slices.Index(ids, tokens[i]); j >= 0 {
				scores[i-1] = float32(math.Log(probs[j]))
			}
			paths = follow(paths, i-from, tokens[i])
		}
		if tokens[i] == p.Tokenizer.end {
			return
		}
	}
}

// Render renders messages in ChatML with the beginning of the reply, as the chat template of a server does.
func (p Policy) Render(messages []ChatMessage) []int32 {
	var ids []int32
	for _, m := range messages {
		ids = append(append(append(ids, Start), p.Tokenizer.Encode(m.Role+"\n"+m.Text)...), End)
		ids = append(ids, p.Tokenizer.Encode("\n")...)
	}
	return append(ids, p.Opening()...)
}
