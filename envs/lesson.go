package envs

import "context"

// A Solver is a [Family] that knows how its tasks are solved. Demonstrations are
// made from its solutions.
type Solver interface {
	// Solve returns actions that solve t, in order. The policy never sees them.
	Solve(ctx context.Context, t Task) ([]string, error)
}

// A Teacher is a [Family] that plays episodes to learn from: successes and
// failures, with the tips that a memory could have shown, and with the tip that
// a good policy writes afterwards. Its tasks are in no split, so that nothing
// that is later trained on or evaluated is given away.
type Teacher interface {
	// Lesson returns lesson n = 0, 1, … of a seed. The same arguments give the
	// same lesson.
	Lesson(ctx context.Context, seed, n uint64) (Lesson, error)
}

// A Lesson is an episode that a [Teacher] played.
type Lesson struct {
	Task    Task
	Turns   []LessonTurn // at least one
	Final   Observation  // after the last action
	Score   float64      // as in [Step]
	Success bool
	Tip     string // what the policy should write after the episode; empty: nothing
}

// A LessonTurn is one turn of a [Lesson].
type LessonTurn struct {
	Observation Observation
	Tips        []string // new tips that the prompt shows in this turn
	Action      string
}
