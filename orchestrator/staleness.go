package orchestrator

import (
	"context"
	"fmt"
	"slices"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
)

// Staleness says how old the versions are that a step was sampled from. The age of a
// turn is the number of versions that were committed between the one that sampled it
// and the one that the step's update begins with, that one included.
type Staleness struct {
	Mean    float64 `json:"mean"`    // over the turns of the groups that are not dropped
	Max     int     `json:"max"`     // of the same turns
	Dropped int     `json:"dropped"` // groups with an older turn than rollout.max_staleness allows
}

// age returns the number of versions that were committed after a version. It is right
// up to the number of versions that the state keeps.
func (s state) age(version int) int {
	n := 0
	for i := len(s.versions) - 1; i >= 0 && s.versions[i] > version; i-- {
		n++
	}
	return n
}

// withVersion returns the newest committed versions, one more included if it is new.
func (s state) withVersion(version int) []int {
	if n := len(s.versions); n > 0 && s.versions[n-1] == version {
		return s.versions
	}
	out := append(slices.Clone(s.versions), version)
	return out[max(0, len(out)-maxVersions):]
}

// maxVersions bounds the versions that a state keeps. It is more than the largest
// rollout.max_staleness.
const maxVersions = 128

// eventStale is the kind of the event for groups that are too old to train on.
const eventStale = "groups dropped"

// A staleStage finds the groups of a step that are too old to train on.
type staleStage struct {
	max    int // largest age; rollout.max_staleness
	ledger *ledger.Ledger
	log    zerolog.Logger
}

// run marks the groups that are dropped: those of which one turn is too old. Their
// episodes stay in the ledger, and the memory learns from them.
func (s staleStage) run(ctx context.Context, in Sampled, before state) (Sampled, error) {
	in.Version = before.policy.Version
	turns, sum, oldest := 0, 0, 0
	for g, group := range in.Groups {
		ages := []int{}
		for _, t := range group {
			for _, turn := range t.Turns {
				if !t.Failed() {
					ages = append(ages, before.age(turn.Version))
				}
			}
		}
		if len(ages) == 0 {
			continue
		}
		if age := slices.Max(ages); age > s.max {
			oldest = max(oldest, age)
			in.drop(g)
			continue
		}
		for _, age := range ages {
			turns, sum = turns+1, sum+age
			in.Staleness.Max = max(in.Staleness.Max, age)
		}
	}
	in.Staleness.Mean = float64(sum) / float64(max(1, turns))
	if in.Staleness.Dropped == 0 {
		return in, nil
	}
	text := fmt.Sprintf("%d of %d groups are not trained: their oldest turn is %d updates old, "+
		"rollout.max_staleness is %d", in.Staleness.Dropped, len(in.Groups), oldest, s.max)
	s.log.Warn().Int64("step", in.Plan.Step).Msg(text)
	return in, s.ledger.Event(ctx, in.Plan.Step, eventStale, text)
}

// drop leaves a group out of the training.
func (s *Sampled) drop(group int) {
	if s.stale == nil {
		s.stale = map[int]bool{}
	}
	s.stale[group] = true
	s.Staleness.Dropped++
}
