package vault

import (
	"fmt"
	"strings"
)

// The words of every house. The base policy was pre-trained on these names
// with other rules, so that it knows how to walk but not where.
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

// The texts of the walk. The base policy has learnt exactly these.
const (
	instruction = "You walk a corridor of locked doors. One lever opens each door. " +
		"A wrong lever ends the walk."
	reflection = "Write one tip for the next walk."

	opens = "It opens."
	out   = "It opens. You are out. Score 100."
	alarm = "An alarm rings."
	inert = "Nothing happens."
)

// stateText is what the walker sees before a door. The door stands last, at a
// fixed distance from the answer.
func stateText(levers []string, number, doors int, door string) string {
	return fmt.Sprintf("Levers: %s. Door %d of %d is %s.",
		strings.Join(levers, ", "), number, doors, door)
}

// overText is what follows an action that ends the walk before the exit.
func overText(what string, score int) string {
	return fmt.Sprintf("%s The walk is over. Score %d.", what, score)
}

// pulled returns the lever that an action names, or "" if the action is not
// exactly one well-formed pull.
func pulled(action string) string {
	lever, ok := strings.CutPrefix(strings.TrimSpace(action), "pull ")
	if !ok {
		return ""
	}
	return lever
}
