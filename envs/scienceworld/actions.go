package scienceworld

import (
	"context"
	"strings"
)

// unknownInput is what the simulator says to input that it cannot parse. Such
// input costs no time in the simulated world.
const unknownInput = "No known action matches that input."

// perform carries out the policy's text in the configured way. taken is the
// action that it was replaced by, or "".
func perform(ctx context.Context, sim *simulator, how Actions, text string) (rec record, taken string, err error) {
	switch how {
	case ActClosestRecipe:
		valid, err := sim.validInOrder(ctx)
		if err != nil {
			return record{}, "", err
		}
		taken = closestSet(text, valid)
		rec, err = sim.act(ctx, taken)
		return rec, taken, err
	case ActClosest:
		return performClosest(ctx, sim, text)
	default:
		rec, err = sim.act(ctx, text)
		return rec, "", err
	}
}

// performClosest lets the simulator judge the text first: its parser knows
// more spellings than its list of valid actions has.
func performClosest(ctx context.Context, sim *simulator, text string) (rec record, taken string, err error) {
	rec, err = sim.act(ctx, strings.Join(strings.Fields(text), " "))
	if err != nil || rec.observation != unknownInput {
		return rec, "", err
	}
	valid := rec.valid
	if sim.reads != ReadFull {
		if valid, err = sim.strings(ctx, "getValidActionObjectCombinations"); err != nil {
			return record{}, "", err
		}
	}
	if taken = closestSequence(text, valid); taken == "" {
		return rec, "", nil
	}
	rec, err = sim.act(ctx, taken)
	return rec, taken, err
}

// closestSet picks the action with the largest Jaccard similarity of word
// sets, the first of equals, as use_action_correction of the recipe does. The
// lower-cased text itself if there is nothing to pick from.
func closestSet(text string, valid []string) string {
	best, bestScore := strings.ToLower(text), -1.0
	words := wordSet(best)
	for _, action := range valid {
		if s := jaccard(words, wordSet(action)); s > bestScore {
			best, bestScore = action, s
		}
	}
	return best
}

func wordSet(s string) map[string]bool {
	set := make(map[string]bool)
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}

// jaccard is |a∩b| / |a∪b|, 0 for two empty sets.
func jaccard(a, b map[string]bool) float64 {
	common := 0
	for w := range a {
		if b[w] {
			common++
		}
	}
	union := len(a) + len(b) - common
	if union == 0 {
		return 0
	}
	return float64(common) / float64(union)
}

// closestSequence picks the action that shares the longest word sequence with
// the text, relative to both lengths: 2·lcs / (len+len). Order counts, so that
// "move a to b" is never taken for "move b to a" where both are valid. Of
// equals the first in the sorted list is taken; "" if no word is shared.
func closestSequence(text string, valid []string) string {
	words := strings.Fields(strings.ToLower(text))
	best, bestScore := "", 0.0
	for _, action := range valid {
		other := strings.Fields(action)
		s := 2 * float64(commonWords(words, other)) / float64(len(words)+len(other))
		if s > bestScore {
			best, bestScore = action, s
		}
	}
	return best
}

// commonWords is the length of the longest common subsequence of words.
func commonWords(a, b []string) int {
	row := make([]int, len(b)+1)
	for _, x := range a {
		diagonal := 0
		for j, y := range b {
			above := row[j+1]
			if x == y {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(above, row[j])
			}
			diagonal = above
		}
	}
	return row[len(b)]
}
