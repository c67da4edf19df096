package webshop

import (
	"context"

	"github.com/empo2/empo2/envs"
)

// An episode is a session with a limit of steps. It implements [envs.Episode]. The
// state is the page. The page after the last step is feedback.
type episode struct {
	session *session
	config  Config
	steps   int
}

var _ envs.Episode = (*episode)(nil)

// Reset implements [envs.Episode].
func (e *episode) Reset(context.Context) (envs.Observation, error) {
	e.session.open()
	return envs.Observation{State: e.session.observe()}, nil
}

// Step implements [envs.Episode]. The score is 100 times the shop's reward.
func (e *episode) Step(_ context.Context, action string) (envs.Step, error) {
	reward, done, err := e.session.act(action)
	if err != nil {
		return envs.Step{}, err
	}
	e.steps++
	step := envs.Step{
		Reward:     reward,
		Score:      100 * reward,
		Success:    done && reward == 1,
		Terminated: done,
		Invalid:    e.session.refused,
		Truncated:  !done && e.config.MaxSteps > 0 && e.steps >= e.config.MaxSteps,
	}
	if e.config.Reward == SuccessReward {
		step.Reward = 0
		if step.Success {
			step.Reward = 10
		}
	}
	if page := e.session.observe(); step.Done() {
		step.Observation.Feedback = page
	} else {
		step.Observation.State = page
	}
	return step, nil
}

// Close implements [envs.Episode].
func (e *episode) Close() error { return nil }
