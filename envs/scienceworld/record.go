package scienceworld

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// A record is the simulator's state after one action.
type record struct {
	observation string
	raw         float64 // −1..1
	score       int     // −100..100
	completed   bool    // the simulator's flag; false after a failure
	moves       int     // simulated clock
	look        string
	inventory   string
	taskDesc    string   // ReadFull only
	valid       []string // ReadFull only
}

// The reads of a step, in the order of the Python package. Result 0 is the
// observation.
var (
	lazyMethods = []string{"getScore", "getCompleted", "getNumMoves", "freeActionLook", "freeActionInventory"}
	fullMethods = append(slices.Clone(lazyMethods), "freeActionTaskDesc", "getValidActionObjectCombinations")
)

// validAt is the index of the list of valid actions in the results.
const validAt = 7

func (r Reads) methods() []string {
	if r == ReadFull {
		return fullMethods
	}
	return lazyMethods
}

// exceptionText is the observation after an exception in the simulator's parser. The
// policy has caused it, so it is not an error.
const exceptionText = "That input cannot be processed."

// decode makes a record of the results of a step.
func (s *simulator) decode(results []result) (record, error) {
	var rec record
	err := results[0].into(&rec.observation)
	if thrown := new(javaError); errors.As(err, &thrown) && thrown.Exception != "" {
		rec.observation, err = exceptionText, nil
	}
	err = errors.Join(err,
		results[1].into(&rec.raw), results[2].into(&rec.completed), results[3].into(&rec.moves),
		results[4].into(&rec.look), results[5].into(&rec.inventory))
	if s.reads == ReadFull {
		err = errors.Join(err, results[6].into(&rec.taskDesc))
	}
	rec.score = int(math.RoundToEven(100 * rec.raw))
	return rec, err
}

// into stores the value of a result. Its type must be right.
func (r result) into(to any) error {
	if r.err != nil {
		return r.err
	}
	ok := false
	switch to := to.(type) {
	case *string:
		*to, ok = r.value.(string)
	case *float64:
		*to, ok = r.value.(float64)
	case *bool:
		*to, ok = r.value.(bool)
	case *int:
		*to, ok = r.value.(int)
	case *objectID:
		*to, ok = r.value.(objectID)
	}
	if !ok {
		return fmt.Errorf("the reply is of type %T, want a value for %T", r.value, to)
	}
	return nil
}
