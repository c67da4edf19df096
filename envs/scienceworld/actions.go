package scienceworld

import (
	"context"
	"strings"
)

// unknownInput is the simulator's answer to input that it cannot parse. Such input
// does not advance the simulated clock.
const unknownInput = "No known action matches that input."

// perform performs the policy's text as configured. taken is the action that
// replaced the text, or "".
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

// performClosest tries the text first, because the simulator's parser knows more
// spellings than its list of valid actions.
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

// closestSet returns the action with the largest Jaccard similarity of word sets,
// the first of equals, like use_action_correction of the recipe. If valid is empty,
// it returns the text in lower case.
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

// closestSequence returns the action with the longest word sequence in common with
// the text, relative to both lengths: 2·lcs / (len+len). The order of words matters:
// "move a to b" never becomes "move b to a" if both are valid. Of equal actions the
// first in the sorted list is used. Without a common word the result is "".
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
