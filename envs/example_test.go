package envs_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
)

// Guess is a complete environment: find a number from 1 to 8 with four guesses.
// To train on it, move it into a package of its own and add a line to the map
// families in orchestrator/cmd/empo2/environments.go.
type Guess struct{}

func (Guess) Name() string { return "guess" }

// Tasks lists eight tasks. Each is a seed and has its own list of tips (Scope).
func (Guess) Tasks(split envs.Split) ([]envs.Task, error) {
	first := map[envs.Split]uint64{envs.Train: 0, envs.Eval: 0, envs.Test: 100}
	seed, ok := first[split]
	if !ok {
		return nil, fmt.Errorf("guess: unknown split %q", split)
	}
	tasks := make([]envs.Task, 8)
	for i := range tasks {
		id := fmt.Sprintf("number-%d", seed)
		tasks[i] = envs.Task{ID: id, Scope: id, Seed: seed, Instruction: "Find the secret number. Answer with a number."}
		seed++
	}
	return tasks, nil
}

// Open opens an episode. Guard enforces the order of calls.
func (Guess) Open(_ context.Context, t envs.Task) (envs.Episode, error) {
	if t.ID != fmt.Sprintf("number-%d", t.Seed) {
		return nil, fmt.Errorf("guess: unknown task %q", t.ID)
	}
	secret := 1 + rand.New(rand.NewPCG(t.Seed, 0)).IntN(8)
	return envs.Guard(&game{secret: secret, left: 4}), nil
}

func (Guess) Close() error { return nil }

type game struct{ secret, left int }

func (g *game) Reset(context.Context) (envs.Observation, error) {
	return envs.Observation{State: g.state()}, nil
}

func (g *game) state() string { return fmt.Sprintf("1 to 8, %d guesses left.", g.left) }

// Step answers a guess. Text that is not a number is a wrong guess, not an error.
func (g *game) Step(_ context.Context, action string) (envs.Step, error) {
	g.left--
	guess := 0
	_, _ = fmt.Sscan(action, &guess)
	s := envs.Step{Terminated: guess == g.secret, Success: guess == g.secret}
	switch {
	case s.Success:
		s.Reward, s.Score, s.Observation.Feedback = 1, 100, "Right!"
	case guess < g.secret:
		s.Observation.Feedback = "Too low."
	default:
		s.Observation.Feedback = "Too high."
	}
	s.Truncated = !s.Terminated && g.left == 0
	if !s.Done() {
		s.Observation.State = g.state()
	}
	return s, nil
}

func (g *game) Close() error { return nil }

// The conformance suite checks that an environment keeps the contract.
func TestGuessConforms(t *testing.T) {
	envstest.Run(t, func(*testing.T) envs.Family { return Guess{} })
}

func Example() {
	ctx := context.Background()
	tasks, _ := Guess{}.Tasks(envs.Train)
	episode, _ := Guess{}.Open(ctx, tasks[0])
	defer episode.Close()
	o, _ := episode.Reset(ctx)
	fmt.Println(o.State)
	for _, action := range []string{"4", "what?", "3"} {
		step, _ := episode.Step(ctx, action)
		fmt.Println(step.Observation.Feedback, step.Reward, step.Done())
	}
	// Output:
	// 1 to 8, 4 guesses left.
	// Too high. 0 false
	// Too low. 0 false
	// Right! 1 true
}
