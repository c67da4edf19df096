package vault

import (
	"fmt"
	"strings"
)

// The words of every house. The base policy was pre-trained on these names with
// other rules. It knows the form of the actions, but not the right levers.
var (
	doorNames = [...]string{
		"iron", "oak", "clay", "glass", "copper", "marble", "velvet", "paper", "stone", "silver",
		"cedar", "ivory", "bronze", "slate", "wicker", "chalk",
	}
	leverNames = [...]string{
		"jade", "amber", "bone", "salt", "brass", "coral", "onyx", "pearl", "ruby", "tin", "wax",
		"cork", "flint", "opal", "lead", "horn", "moss", "ash", "reed", "silk",
	}
)

// The texts of an episode. The base policy was pre-trained on exactly these texts.
const (
	instruction = "You walk a corridor of locked doors. One lever opens each door. " +
		"A wrong lever ends the walk."
	reflection = "Write one tip for the next walk."

	opens = "It opens."
	out   = "It opens. You are out. Score 100."
	alarm = "An alarm rings."
	inert = "Nothing happens."
)

// stateText describes a door and its levers. The door comes last, at a fixed
// distance from the answer.
func stateText(levers []string, number, doors int, door string) string {
	return fmt.Sprintf("Levers: %s. Door %d of %d is %s.",
		strings.Join(levers, ", "), number, doors, door)
}

// overText is the feedback to an action that ends the episode before the exit.
func overText(result string, score int) string {
	return fmt.Sprintf("%s The walk is over. Score %d.", result, score)
}

// pulled returns the lever of an action, or "" if the action is malformed.
func pulled(action string) string {
	lever, ok := strings.CutPrefix(strings.TrimSpace(action), "pull ")
	if !ok {
		return ""
	}
	return lever
}
