package rollout_test

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/chat/chattest"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fatal is implemented by *testing.T and *rapid.T.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// family opens episodes with a function.
type family struct {
	open func(context.Context, envs.Task) (envs.Episode, error)
}

func (f family) Name() string                          { return "test" }
func (f family) Tasks(envs.Split) ([]envs.Task, error) { return nil, nil }
func (f family) Close() error                          { return nil }
func (f family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	return f.open(ctx, t)
}

// corridor is an episode of n doors. Every action opens a door and pays reward. The functions replace the default
// behaviour if they are not nil.
type corridor struct {
	n      int
	reward float64
	reset  func(context.Context) (envs.Observation, error)
	step   func(ctx context.Context, i int, action string) (envs.Step, error)
	i      int
	closed int
}

func (w *corridor) Reset(ctx context.Context) (envs.Observation, error) {
	if w.reset != nil {
		return w.reset(ctx)
	}
	return envs.Observation{State: w.state()}, nil
}

func (w *corridor) state() string {
	return fmt.Sprintf("Levers: jade, bone. Door %d of %d is iron.", w.i+1, w.n)
}

func (w *corridor) Step(ctx context.Context, action string) (envs.Step, error) {
	w.i++
	if w.step != nil {
		return w.step(ctx, w.i-1, action)
	}
	s := envs.Step{Reward: w.reward, Score: float64(w.i) * w.reward, Terminated: w.i == w.n, Success: w.i == w.n}
	s.Observation = envs.Observation{Feedback: "It opens.", State: w.state()}
	if s.Terminated {
		s.Observation = envs.Observation{Feedback: "You are out."}
	}
	return s, nil
}

func (w *corridor) Close() error { w.closed++; return nil }

// corridors is a family that opens a new corridor of n doors for every episode.
func corridors(n int) family {
	return family{func(context.Context, envs.Task) (envs.Episode, error) { return &corridor{n: n, reward: 1}, nil }}
}

// single is a family that opens w for every episode.
func single(w *corridor) family {
	return family{func(context.Context, envs.Task) (envs.Episode, error) { return w, nil }}
}

// newDriver returns a driver of a scripted backend that serves versions 0 and 1 with ChatML.
func newDriver(
	t fatal, f envs.Family, script samplertest.Script, words ...string,
) (*rollout.Driver, *samplertest.Scripted) {
	t.Helper()
	return newDriverOf(t, chattest.ChatML, chat.TemplateChatML, f, script, words...)
}

// newDriverOf is newDriver with another model's template.
func newDriverOf(
	t fatal, m chattest.Model, template string, f envs.Family, script samplertest.Script, words ...string,
) (*rollout.Driver, *samplertest.Scripted) {
	t.Helper()
	b := samplertest.NewScripted(m.Tokenizer(words...), script)
	for version := range 2 {
		if _, err := b.Publish(context.Background(), sampler.Adapter{Version: version}); err != nil {
			t.Fatalf("publish: %v", err)
		}
	}
	chatTemplate, err := chat.NewTemplate(context.Background(), template, b, b, m.Render)
	if err != nil {
		t.Fatalf("template: %v", err)
	}
	return &rollout.Driver{Backend: b, Family: f, ChatTemplate: chatTemplate, PromptTemplate: prompt.Default()}, b
}

// spec is an episode of version 1 without a memory.
func spec() rollout.EpisodeSpec {
	return rollout.EpisodeSpec{
		Task: envs.Task{
			ID: "house-1/variation-0", Scope: "house-1",
			Instruction: "You walk a corridor.", Reflection: "Write one tip.",
		},
		Step: 3, Group: 1, Episode: 2, Seed: 7, Policy: sampler.Policy{Version: 1, Name: samplertest.Name(1)},
		Temperature: 1, MaxTurns: 20, MaxTokens: 16,
	}
}

// recalls is a memory that always returns the same tips.
func recalls(tips ...prompt.Tip) rollout.RecallFunc {
	return func(context.Context, rollout.Query) (rollout.Recalled, error) {
		return rollout.Recalled{Tips: tips, Similar: len(tips)}, nil
	}
}

// lockedCorridors is a family of corridors in which only "pull jade" opens a door.
func lockedCorridors(doors int) family {
	return family{func(context.Context, envs.Task) (envs.Episode, error) {
		w := &corridor{n: doors}
		w.step = func(_ context.Context, i int, action string) (envs.Step, error) {
			if action != "pull jade" {
				return envs.Step{Observation: envs.Observation{Feedback: "An alarm rings."}, Terminated: true}, nil
			}
			out := i == doors-1
			s := envs.Step{Observation: envs.Observation{Feedback: "It opens.", State: w.state()}, Terminated: out, Success: out}
			if out {
				s.Reward, s.Score = 1, 100
			}
			return s, nil
		}
		return w, nil
	}}
}
