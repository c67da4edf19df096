package scienceworld

import (
	"context"
	"fmt"

	"github.com/empo2/empo2/envs"
)

var _ envs.Solver = (*Family)(nil)

// Solve implements [envs.Solver]: it returns the simulator's own gold path of a
// variation. Computing it takes about half a second.
func (f *Family) Solve(ctx context.Context, t envs.Task) (actions []string, err error) {
	v, err := parseVariant(t.ID)
	if err == nil {
		err = f.catalogue.check(v)
	}
	if err != nil {
		return nil, fmt.Errorf("scienceworld: %w", err)
	}
	err = f.pool.with(ctx, func(sim *simulator) error {
		if err := sim.loadWithGold(ctx, v.task, v.variation, f.config.Simplifications); err != nil {
			return err
		}
		actions, err = sim.strings(ctx, "getGoldActionSequence")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("scienceworld %s: gold path: %w", v, err)
	}
	return actions, nil
}
