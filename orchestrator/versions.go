package orchestrator

import (
	"context"
	"maps"
	"slices"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// versionsOfTokens returns the version that sampled each trained token of the rows, in
// order; nil if all are the given one. masked says that truncated replies are not trained.
func versionsOfTokens(rows []rollout.Row, turns []rollout.Turn, version int, masked bool) []int {
	var out []int
	older := false
	for _, turn := range turnsOfTokens(rows, turns) {
		if masked && turns[turn].Finish == sampler.FinishLength {
			continue
		}
		out = append(out, turns[turn].Version)
		older = older || turns[turn].Version != version
	}
	if !older {
		return nil
	}
	return out
}

// A versionedTrainer scores rows under the versions that sampled them. A difference of
// log-probs between two versions is no mismatch: it is what the training has changed.
type versionedTrainer struct {
	trainer Trainer
	ledger  *ledger.Ledger
	version int // that the trainer has
}

// cheapest returns the episodes that the trainer scores without loading another version,
// or else those whose versions it can load.
func (v versionedTrainer) cheapest(episodes []trainedEpisode) []trainedEpisode {
	var current, known []trainedEpisode
	for _, e := range episodes {
		if e.versions == nil {
			current = append(current, e)
		}
		if !slices.ContainsFunc(e.versions, func(n int) bool { return n > 0 && !v.ledger.HasCheckpoint(n) }) {
			known = append(known, e)
		}
	}
	if len(current) > 0 {
		return current
	}
	return known
}

// by returns the indices of the episodes that each version has sampled tokens of.
func (v versionedTrainer) by(episodes []trainedEpisode) map[int][]int {
	of := map[int][]int{}
	for i, e := range episodes {
		versions := e.versions
		if versions == nil {
			versions = []int{v.version}
		}
		for _, n := range slices.Compact(slices.Sorted(slices.Values(versions))) {
			of[n] = append(of[n], i)
		}
	}
	return of
}

// scoreBySampler returns the trainer's log-probs of the rows as they were sampled, each
// token's under the version that sampled it. The trainer then has its version again. If
// it fails, its version is unknown.
func (c mismatchCorrection) scoreBySampler(ctx context.Context, episodes []trainedEpisode) ([][][]float32, error) {
	of := c.versions.by(episodes)
	older := slices.Sorted(maps.Keys(of))
	older = slices.DeleteFunc(older, func(n int) bool { return n == c.versions.version })
	if len(older) == 0 {
		return c.score(ctx, episodes)
	}
	out := make([][][]float32, len(episodes))
	add := func(version int) error {
		var sampled []trainedEpisode
		for _, i := range of[version] {
			sampled = append(sampled, episodes[i])
		}
		scores, err := c.score(ctx, sampled)
		if err != nil {
			return err
		}
		for n, i := range of[version] {
			out[i] = episodes[i].takeScores(out[i], scores[n], version)
		}
		return nil
	}
	if err := add(c.versions.version); err != nil {
		return nil, err
	}
	for _, version := range older {
		if err := restoreTrainer(ctx, c.versions.ledger, c.trainer, version); err != nil {
			return nil, err
		}
		if err := add(version); err != nil {
			return nil, err
		}
	}
	return out, restoreTrainer(ctx, c.versions.ledger, c.trainer, c.versions.version)
}

// takeScores returns scores with those of the tokens that a version has sampled. into is
// nil before the first version.
func (e trainedEpisode) takeScores(into, scores [][]float32, version int) [][]float32 {
	if into == nil || e.versions == nil {
		return scores
	}
	n := 0 // of the trained token
	for i, row := range e.sampled {
		for k, trained := range row.LossMask {
			if !trained {
				continue
			}
			if e.versions[n] == version && k > 0 && k <= min(len(scores[i]), len(into[i])) {
				into[i][k-1] = scores[i][k-1]
			}
			n++
		}
	}
	return into
}
