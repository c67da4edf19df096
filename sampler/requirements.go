package sampler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Requirements are what a run needs from its server. The zero value accepts any
// server that writes text.
type Requirements struct {
	IDs      bool // token ids out, to train on them
	Logprobs bool // the sampler's log-probs, aligned with the ids
	Adapters bool // new versions while the run goes on
	Formats  []string
	Rank     int  // of the adapter
	Context  int  // tokens of the longest conversation; 0: not known
	Resident int  // policies served at once
	Stop     bool // replies end at stop strings
}

// ErrCapability is wrapped when a server, as launched, cannot do what a run
// needs.
var ErrCapability = errors.New("the server cannot do what the run needs")

// Check compares what a server can do with what a run needs. The error names
// everything that is missing, each with the server's own remedy.
func (r Requirements) Check(c Capabilities) error {
	var missing []string
	lacks := func(lacking bool, capability, format string, args ...any) {
		if !lacking {
			return
		}
		text := fmt.Sprintf(format, args...)
		if hint := c.Hints[capability]; hint != "" {
			text += "\n      hint: " + hint
		}
		missing = append(missing, text)
	}
	lacks(r.IDs && !c.IDsOut, "ids_out", "no token ids: what it writes cannot be trained on exactly")
	lacks(r.Logprobs && !c.Logprobs, "logprobs", "no log-probs that belong to the ids")
	hasAdapters := c.Adapters != "" && c.Adapters != "none"
	lacks(r.Adapters && !hasAdapters, "adapters", "no way to load a new adapter")
	lacks(r.Adapters && hasAdapters && !slices.Contains(r.Formats, c.AdapterFormat), "adapter_format",
		"adapters in %s, the trainer writes %s", c.AdapterFormat, strings.Join(r.Formats, ", "))
	lacks(r.Adapters && c.MaxRank > 0 && r.Rank > c.MaxRank, "max_rank",
		"adapters of rank %d at most, trainer.rank is %d", c.MaxRank, r.Rank)
	lacks(r.Adapters && c.MaxResident > 0 && r.Resident > c.MaxResident, "max_resident",
		"%d versions at once at most, %d are needed while one replaces another", c.MaxResident, r.Resident)
	lacks(r.Context > 0 && c.ContextLength > 0 && r.Context > c.ContextLength, "context_length",
		"a context of %d tokens, %d are needed", c.ContextLength, r.Context)
	lacks(r.Stop && !c.StopStrings, "stop_strings", "no stop strings (rollout.stop)")
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w (%s %s):\n    - %s", ErrCapability, c.Server, c.Version, strings.Join(missing, "\n    - "))
}
