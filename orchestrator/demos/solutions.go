package demos

import (
	"context"
	"errors"
	"fmt"

	"github.com/empo2/empo2/envs"
)

// Solutions describes the demonstrations to make from an environment that solves
// its own tasks.
type Solutions struct {
	Family envs.Family // implements envs.Solver too
	Tasks  []envs.Task
	// MaxTurns leaves out longer solutions, as the policy cannot play them; 0: none.
	MaxTurns int
	Progress func(done int) // nil: nothing is reported
}

// Left counts tasks that have no demonstration.
type Left struct {
	Long     int // solved in more than MaxTurns turns
	Unsolved int // the solution did not succeed
}

// Solutions plays the solution of every task.
func (r Renderer) Solutions(ctx context.Context, s Solutions) (all []Demonstration, left Left, err error) {
	solver, ok := s.Family.(envs.Solver)
	if !ok {
		return nil, left, fmt.Errorf("environment %s does not solve its tasks", s.Family.Name())
	}
	for i, task := range s.Tasks {
		actions, err := solver.Solve(ctx, task)
		if err != nil {
			return nil, left, err
		}
		lesson, err := r.play(ctx, s.Family, task, actions, s.MaxTurns)
		switch {
		case errors.Is(err, errLong):
			left.Long++
		case err != nil:
			return nil, left, err
		case !lesson.Success:
			left.Unsolved++
		default:
			d, err := r.withoutTips(lesson)
			if err != nil {
				return nil, left, err
			}
			all = append(all, d)
		}
		if s.Progress != nil {
			s.Progress(i + 1)
		}
	}
	return all, left, nil
}

var errLong = errors.New("the solution has too many turns")

// play performs actions as if the policy had replied with them. It stops when the
// episode ends.
func (r Renderer) play(ctx context.Context, family envs.Family, task envs.Task, actions []string, most int) (
	lesson envs.Lesson, err error) {
	lesson.Task = task
	episode, err := family.Open(ctx, task)
	if err != nil {
		return lesson, err
	}
	defer func() { err = errors.Join(err, episode.Close()) }()
	now, err := episode.Reset(ctx)
	if err != nil {
		return lesson, err
	}
	for _, action := range actions {
		if most > 0 && len(lesson.Turns) == most {
			return lesson, errLong
		}
		action = r.Template.Action(r.Template.Reply(action))
		lesson.Turns = append(lesson.Turns, envs.LessonTurn{Observation: now, Action: action})
		step, err := episode.Step(ctx, action)
		if err != nil {
			return lesson, err
		}
		now, lesson.Score, lesson.Success = step.Observation, step.Score, lesson.Success || step.Success
		if step.Done() {
			break
		}
	}
	lesson.Final = now
	return lesson, nil
}
