package sampler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Requirements are what a run needs from its server. The zero value accepts every server that returns text.
type Requirements struct {
	IDs      bool     // completions have token ids, to train on
	Logprobs bool     // completions have one log-prob per id
	Adapters bool     // the server loads new versions during the run
	Formats  []string // adapter formats that the trainer exports: "peft", "gguf"
	Rank     int      // of the adapter
	Context  int      // tokens of the longest conversation; 0: unknown
	Resident int      // versions served at the same time
	Stop     bool     // replies end at stop strings
}

// ErrCapability is wrapped by [Requirements.Check] if a server, as it was launched, does not meet the requirements.
var ErrCapability = errors.New("the server cannot do what the run needs")

// Check returns an error if a server does not meet the requirements. The error lists every missing capability with the
// server's hint on how to provide it.
func (r Requirements) Check(c Capabilities) error {
	var missing []string
	refuse := func(lacking bool, capability, format string, args ...any) {
		if !lacking {
			return
		}
		text := fmt.Sprintf(format, args...)
		if hint := c.Hints[capability]; hint != "" {
			text += "\n      hint: " + hint
		}
		missing = append(missing, text)
	}
	refuse(r.IDs && !c.IDsOut, "ids_out", "no token ids: its completions cannot be trained on exactly")
	refuse(r.Logprobs && !c.Logprobs, "logprobs", "no log-probs aligned with the token ids")
	hasAdapters := c.Adapters != "" && c.Adapters != "none"
	refuse(r.Adapters && !hasAdapters, "adapters", "no way to load a new adapter")
	refuse(r.Adapters && hasAdapters && !slices.Contains(r.Formats, c.AdapterFormat), "adapter_format",
		"adapters in %s, the trainer writes %s", c.AdapterFormat, strings.Join(r.Formats, ", "))
	refuse(r.Adapters && c.MaxRank > 0 && r.Rank > c.MaxRank, "max_rank",
		"adapters up to rank %d, trainer.rank is %d", c.MaxRank, r.Rank)
	refuse(r.Adapters && c.MaxResident > 0 && r.Resident > c.MaxResident, "max_resident",
		"up to %d versions at the same time, the run needs %d while one replaces another", c.MaxResident, r.Resident)
	refuse(r.Context > 0 && c.ContextLength > 0 && r.Context > c.ContextLength, "context_length",
		"a context of %d tokens, the run needs %d", c.ContextLength, r.Context)
	refuse(r.Stop && !c.StopStrings, "stop_strings", "no stop strings (rollout.stop)")
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w (%s %s):\n    - %s", ErrCapability, c.Server, c.Version, strings.Join(missing, "\n    - "))
}
