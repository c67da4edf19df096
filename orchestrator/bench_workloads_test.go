package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/vault"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
)

// corridors plays the demonstration's environment. Its policy pulls the right lever with probability 0.9, so that an
// episode in five doors has 4.1 turns on average.
func corridors(c config.Config) (envs.Family, func(sampler.Request) string, error) {
	v := c.Env.Vault
	family, err := vault.Open(vault.Config{Houses: []uint64{1}, Doors: v.Doors, Levers: v.Levers,
		Score: vault.Score(v.Score), TrainVariations: v.TrainVariations, TestVariations: v.TestVariations})
	if err != nil {
		return nil, nil, err
	}
	right, err := solutions(family)
	reply := func(r sampler.Request) string {
		rng := rand.New(rand.NewPCG(r.Seed, 2))
		last := r.Messages[len(r.Messages)-1].WithoutTips().Text()
		at := strings.LastIndex(last, "Levers: ")
		switch {
		case at < 0: // the request for a tip
			return fmt.Sprintf("At iron pull jade, at bone avoid %d.", rng.IntN(4000))
		case rng.Float64() < 0.9:
			return right[last[at:]]
		}
		return "pull nothing"
	}
	return family, reply, err
}

// solutions returns the right action by state.
func solutions(family *vault.Family) (map[string]string, error) {
	right := map[string]string{}
	tasks, err := family.Tasks(envs.Train)
	for _, task := range tasks {
		actions, solveErr := family.Solve(context.Background(), task)
		e, openErr := family.Open(context.Background(), task)
		if err = cmp.Or(err, solveErr, openErr); err != nil {
			return nil, err
		}
		o, resetErr := e.Reset(context.Background())
		err = resetErr
		for _, action := range actions {
			right[o.State] = action
			s, stepErr := e.Step(context.Background(), action)
			o, err = s.Observation, cmp.Or(err, stepErr)
		}
		err = cmp.Or(err, e.Close())
	}
	return right, err
}

// spans is the workload of agent-lightning's store benchmark as an environment. An episode has rounds of two turns, at
// least one and at most six, and a final turn. Each turn carries about 30 random strings, 5.4 KB of text on average.
// With probability 1/2 a round has a reward, and the final one is in [1, 2].
type spans struct {
	texts []string // drawn beforehand: random strings are no cost of the store
}

const (
	spansMaxRounds = 6
	spansTexts     = 512
)

func newSpans() *spans {
	rng := rand.New(rand.NewPCG(1, 1))
	letters := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[rng.IntN(62)]
		}
		return string(b)
	}
	s := &spans{}
	for range spansTexts {
		var text strings.Builder
		for range 6 + rng.IntN(49) { // 30 on average
			fmt.Fprintf(&text, "%s: %s\n", letters(3+rng.IntN(40)), letters(5+rng.IntN(296)))
		}
		s.texts = append(s.texts, text.String())
	}
	return s
}

// Name implements [envs.Family].
func (s *spans) Name() string { return "spans" }

// Tasks implements [envs.Family].
func (s *spans) Tasks(envs.Split) ([]envs.Task, error) {
	tasks := make([]envs.Task, 64)
	for i := range tasks {
		tasks[i] = envs.Task{ID: fmt.Sprint("task-", i), Scope: "spans", Seed: uint64(i), Instruction: "Go on."}
	}
	return tasks, nil
}

// Open implements [envs.Family].
func (s *spans) Open(_ context.Context, task envs.Task) (envs.Episode, error) {
	rng := rand.New(rand.NewPCG(task.Seed, rand.Uint64()))
	return &spansEpisode{spans: s, rng: rng, left: 2*(1+rng.IntN(spansMaxRounds)) + 1}, nil
}

// Close implements [envs.Family].
func (s *spans) Close() error { return nil }

type spansEpisode struct {
	*spans
	rng  *rand.Rand
	left int
}

// Reset implements [envs.Episode].
func (e *spansEpisode) Reset(context.Context) (envs.Observation, error) { return e.observe(), nil }

func (e *spansEpisode) observe() envs.Observation {
	return envs.Observation{State: e.texts[e.rng.IntN(len(e.texts))]}
}

// Step implements [envs.Episode].
func (e *spansEpisode) Step(context.Context, string) (envs.Step, error) {
	e.left--
	if e.left == 0 {
		return envs.Step{Reward: 1 + e.rng.Float64(), Score: 1, Terminated: true, Success: true,
			Observation: envs.Observation{Feedback: "over"}}, nil
	}
	s := envs.Step{Observation: e.observe()}
	if e.left%2 == 1 && e.rng.IntN(2) == 0 {
		s.Reward = e.rng.Float64()
	}
	return s, nil
}

// Close implements [envs.Episode].
func (e *spansEpisode) Close() error { return nil }
