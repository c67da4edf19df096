package samplertest

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/empo2/empo2/sampler"
)

// Choice is one continuation that a scripted policy may write. The end token
// is added.
type Choice struct {
	Text   string
	Weight float64 // relative to the other choices; not negative
}

// Script is a policy: what it may write after prompt, per version. It must be
// a pure function, safe for concurrent use, and give at least one choice of
// positive weight. Its log-probs are exact: the probability of a token is the
// share of the choices that begin with it.
type Script func(version int, prompt []int32) []Choice

// Say is the script that always writes text.
func Say(text string) Script {
	return func(int, []int32) []Choice { return []Choice{{text, 1}} }
}

// A Policy is a script and the tokenizer that its choices are written in.
type Policy struct {
	Tokenizer *Tokenizer
	Script    Script
}

// A path is one choice in tokens.
type path struct {
	ids    []int32
	weight float64
}

func (p Policy) paths(version int, prompt []int32) []path {
	var paths []path
	for _, c := range p.Script(version, prompt) {
		if c.Weight > 0 {
			paths = append(paths, path{append(p.Tokenizer.Encode(c.Text), p.Tokenizer.end), c.Weight})
		}
	}
	return paths
}

// next splits the paths by their token at position k and returns the tokens
// in order with their probabilities.
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

// follow keeps the paths that have id at position k.
func follow(paths []path, k int, id int32) []path {
	var kept []path
	for _, p := range paths {
		if p.ids[k] == id {
			kept = append(kept, p)
		}
	}
	return kept
}

// Sample writes after the prompt as a server would. What the prompt holds of
// the opened message is continued; it is nothing if no choice begins so.
func (p Policy) Sample(version int, r sampler.Request) sampler.Completion {
	random := rand.New(rand.NewPCG(r.Seed, 0))
	prompt, written := p.opened(r.Prompt)
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

// opened splits a prompt after the last opening of an assistant's message:
// what the script reads, and what the policy has written of it already.
func (p Policy) opened(prompt []int32) (read, written []int32) {
	opening := p.Opening()
	for i := len(prompt) - len(opening); i >= 0; i-- {
		if slices.Equal(prompt[i:i+len(opening)], opening) {
			return prompt[:i+len(opening)], prompt[i+len(opening):]
		}
	}
	return prompt, nil
}

// Opening is what opens an assistant's message.
func (p Policy) Opening() []int32 {
	return append([]int32{Start}, p.Tokenizer.Encode("assistant\n")...)
}

// stopAt is the text before the first stop string in it.
func stopAt(text string, stops []string) (before string, stopped bool) {
	before = text
	for _, stop := range stops {
		if i := strings.Index(text, stop); i >= 0 && (!stopped || i < len(before)) {
			before, stopped = text[:i], true
		}
	}
	return before, stopped
}

// draw picks an index at the request's temperature, top-k and top-p; the first
// of the likeliest at temperature 0.
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
	warm := make([]float64, len(probs))
	var total float64
	for i, p := range probs {
		warm[i] = math.Pow(p, 1/r.Temperature)
		total += warm[i]
	}
	if r.Truncated() {
		total = truncate(warm, total, r)
	}
	x := random.Float64() * total
	for i, w := range warm {
		if x -= w; x < 0 {
			return i
		}
	}
	return best
}

// truncate sets what top-k and top-p leave out to 0 and returns the new total.
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

// Score is what a trainer would say of tokens: log π(tokens[i+1] | tokens[:i+1])
// for what stands in the assistant's messages, 0 elsewhere (nobody asks), and
// −30 for a token that the script never writes there. Without such a message
// the tokens end with what the script writes, cut off or not.
func (p Policy) Score(version int, tokens []int32) []float32 {
	scores := make([]float32, max(len(tokens)-1, 0))
	opening, opened := p.Opening(), false
	for i := 0; i+len(opening) <= len(tokens); i++ {
		if slices.Equal(tokens[i:i+len(opening)], opening) {
			p.scoreMessage(version, tokens, i+len(opening), scores)
			opened = true
		}
	}
	for i := 1; i < len(tokens) && !opened; i++ {
		if opened = p.writes(version, tokens[:i], tokens[i:]); opened {
			p.scoreMessage(version, tokens, i, scores)
		}
	}
	return scores
}

// writes says whether a choice after prompt begins with ids.
func (p Policy) writes(version int, prompt, ids []int32) bool {
	return slices.ContainsFunc(p.paths(version, prompt), func(c path) bool {
		return len(ids) <= len(c.ids) && slices.Equal(ids, c.ids[:len(ids)])
	})
}

// scoreMessage scores the message that begins at tokens[from].
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

// Render writes messages in ChatML and opens the answer, as a server's own
// template.
func (p Policy) Render(messages []ChatMessage) []int32 {
	var ids []int32
	for _, m := range messages {
		ids = append(append(append(ids, Start), p.Tokenizer.Encode(m.Role+"\n"+m.Text)...), End)
		ids = append(ids, p.Tokenizer.Encode("\n")...)
	}
	return append(ids, p.Opening()...)
}
