package llamacpp

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
)

// The shape of a step: short episodes of four tasks, and a reply about each.
const (
	stepGroups, stepEpisodes = 4, 8
	stepReply, stepTip       = 8, 24 // tokens
)

// A step has the processes of one training step: one that plays the episodes, and
// the base model's, which writes the tips.
type step struct {
	b                *testing.B
	play, reflect    *Backend
	player, reviewer sampler.Policy
}

// BenchmarkStep plays the episodes of a step and then reflects upon them. One operation
// is one step. The process that plays is new in every step; that of the base model
// is kept. The bound is the time in which the same processes read as many prompt
// tokens, each once and in full batches, and then generate as many tokens in full
// batches. It says what the server's own arithmetic costs. The parts show what less
// exact numbers save: a float16 cache with flash attention, and, if EMPO2_SMOLLM2_GGUF
// names it, a quantised base.
func BenchmarkStep(b *testing.B) {
	r := newReal(b)
	exact := r.config()
	exact.Slots, exact.ContextPerSlot, exact.RequestTimeout = stepEpisodes, 512, 10*time.Minute
	b.Run("float32", func(b *testing.B) { benchmarkStep(b, r, exact) })
	half := exact
	half.ExactLogprobs = false
	b.Run("float16-cache", func(b *testing.B) { benchmarkStep(b, r, half) })
	quantised := half
	if quantised.BaseGGUF = os.Getenv("EMPO2_SMOLLM2_GGUF"); quantised.BaseGGUF != "" {
		b.Run("quantised-base", func(b *testing.B) { benchmarkStep(b, r, quantised) })
	}
}

func benchmarkStep(b *testing.B, r *real, cfg Config) {
	s := &step{b: b, reflect: r.open(b, cfg)}
	s.reviewer = r.publish(b, s.reflect, sampler.Adapter{})
	var spent, bound, sent, read, generated float64
	for n := range b.N {
		s.play = r.open(b, cfg)
		s.player = r.publish(b, s.play, sampler.Adapter{})
		cpu, before := s.cpu(), s.counts()
		sent += s.run(uint64(n))
		spent += s.cpu() - cpu
		after := s.counts()
		read += float64(after.PromptProcessed - before.PromptProcessed)
		generated += float64(after.Sampled - before.Sampled)
		if n == 0 { // the arithmetic is the same in every step
			cpu = s.cpu()
			s.bound(after.PromptProcessed-before.PromptProcessed, after.Sampled-before.Sampled)
			bound = s.cpu() - cpu
		}
		s.play.Close()
	}
	steps := float64(b.N)
	b.ReportMetric(spent/steps/1000, "server-cpu-s/op")
	b.ReportMetric(sent/steps, "prompt-tokens/op")
	b.ReportMetric(read/steps, "prompt-tokens-read/op")
	b.ReportMetric(generated/steps, "generated-tokens/op")
	b.ReportMetric(spent/steps/bound, "ratio-to-bound")
}

func (s *step) cpu() float64 {
	return cpuMillis(s.b, pid(s.b, s.play.base)) + cpuMillis(s.b, pid(s.b, s.reflect.base))
}

func (s *step) counts() Stats {
	a, b := s.play.Stats(), s.reflect.Stats()
	return Stats{PromptProcessed: a.PromptProcessed + b.PromptProcessed, Sampled: a.Sampled + b.Sampled}
}

// run plays one step. It returns the tokens of all prompts.
func (s *step) run(seed uint64) float64 {
	conversations := make([]conversation, stepGroups*stepEpisodes)
	phases := []func(i int) error{
		func(i int) (err error) {
			conversations[i], err = s.episode(i/stepEpisodes, sampler.Seed(seed, uint64(i)))
			return err
		},
		func(i int) error { return s.write(&conversations[i]) },
	}
	for _, phase := range phases {
		var group errgroup.Group
		group.SetLimit(stepEpisodes)
		for i := range conversations {
			group.Go(func() error { return phase(i) })
		}
		if err := group.Wait(); err != nil {
			s.b.Fatal(err)
		}
	}
	total := 0
	for _, c := range conversations {
		total += c.sent
	}
	return float64(total)
}

// A conversation is a played episode.
type conversation struct {
	seed   uint64
	prompt []int32 // the tokens of all turns
	sent   int     // tokens of all prompts
}

// episode plays one to three turns.
func (s *step) episode(task int, seed uint64) (conversation, error) {
	levers := []string{"pearl, salt, horn, onyx, jade, cork", "onyx, opal, lead, jade, cork, ash",
		"moss, opal, onyx, ash, pearl, flint", "amber, iron, silk, bone, coral, salt"}[task]
	opening := "You walk a corridor of locked doors. One lever opens each door. A wrong lever ends the walk.\n"
	end := make(chan struct{})
	defer close(end)
	c := conversation{seed: seed}
	for turn := range 1 + rand.New(rand.NewPCG(seed, 0)).IntN(3) {
		text := fmt.Sprintf("%sLevers: %s. Door %d of 3 is cedar.\nanswer: ", opening, levers, turn+1)
		opening = "\nIt opens.\n"
		c.prompt = append(c.prompt, tokens(s.b, s.play, text)...)
		c.sent += len(c.prompt)
		reply, err := s.play.Sample(s.b.Context(), s.player, sampler.Request{Prompt: c.prompt, MaxTokens: stepReply,
			Temperature: 1, Seed: sampler.Seed(seed, uint64(turn)), Session: c.session(), SessionEnd: end})
		if err != nil {
			return c, err
		}
		c.prompt = append(c.prompt, reply.IDs...)
	}
	return c, nil
}

// write has a tip written about the episode.
func (s *step) write(c *conversation) error {
	request := "\nAn alarm rings. The walk is over. Write one tip for the next walk.\n"
	c.prompt = append(c.prompt, tokens(s.b, s.reflect, request)...)
	c.sent += len(c.prompt)
	_, err := s.reflect.Sample(s.b.Context(), s.reviewer, sampler.Request{Prompt: c.prompt, MaxTokens: stepTip,
		Temperature: 1, Seed: c.seed, Session: c.session()})
	return err
}

func (c conversation) session() string { return strconv.FormatUint(c.seed, 16) }

// bound reads and generates as many tokens in full batches, half of each in either
// process.
func (s *step) bound(read, generated int64) {
	var group errgroup.Group
	for i, b := range []*Backend{s.play, s.reflect} {
		p := []sampler.Policy{s.player, s.reviewer}[i]
		group.Go(func() error { return s.fullBatches(b, p, int(read)/2, int(generated)/2) })
	}
	if err := group.Wait(); err != nil {
		s.b.Fatal(err)
	}
}

// fullBatches has every slot read its share of the tokens in prompts of up to 256
// and generate its share of replies.
func (s *step) fullBatches(b *Backend, p sampler.Policy, read, generated int) error {
	const longest = 256
	var group errgroup.Group
	text := tokens(s.b, b, "The corridor has a lever, a door and a sign. ")
	for slot := range stepEpisodes {
		group.Go(func() error {
			for left := read / stepEpisodes; left > 0; left -= longest {
				n := min(left, longest)
				prompt := slices.Repeat(text, n/len(text)+1)[:n]
				// Unlike first tokens: nothing is found in the cache.
				prompt[0] = int32((1000 + left%1000*stepEpisodes + slot) % b.caps.VocabSize)
				r := sampler.Request{Prompt: prompt, MaxTokens: 1, Temperature: 1, Seed: uint64(left)}
				if left <= longest {
					r.MaxTokens = max(1, generated/stepEpisodes)
				}
				if _, err := b.Sample(s.b.Context(), p, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
