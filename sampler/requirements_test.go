package sampler

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckListsEveryMissingCapabilityWithItsHint(t *testing.T) {
	training := Requirements{
		IDs: true, Logprobs: true, Adapters: true, Formats: []string{"peft"}, Rank: 32, Context: 4096, Resident: 2,
	}
	f := func(c Capabilities, want ...string) {
		t.Helper()
		err := training.Check(c)
		if len(want) == 0 {
			if err != nil {
				t.Errorf("%+v: %v", c, err)
			}
			return
		}
		if !errors.Is(err, ErrCapability) {
			t.Fatalf("%+v: %v, want ErrCapability", c, err)
		}
		for _, text := range want {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%+v: %v\nlacks %q", c, err, text)
			}
		}
	}
	able := Capabilities{Server: "vllm", IDsOut: true, Logprobs: true, Adapters: "runtime", AdapterFormat: "peft"}
	f(able)
	small := able
	small.MaxRank, small.MaxResident, small.ContextLength = 16, 1, 2048
	small.Hints = map[string]string{"max_rank": "--max-lora-rank 32"}
	f(small, "rank 16", "hint: --max-lora-rank 32", "1 versions", "2048 tokens, the run needs 4096")
	f(Capabilities{Adapters: "none"}, "no token ids", "no log-probs", "no way to load")
	gguf := able
	gguf.AdapterFormat = "gguf"
	f(gguf, "adapters in gguf, the trainer writes peft")
	if err := (Requirements{Stop: true}).Check(able); err == nil || !strings.Contains(err.Error(), "no stop strings") {
		t.Errorf("without stop strings: %v", err)
	}
	if err := (Requirements{}).Check(Capabilities{}); err != nil {
		t.Errorf("nothing is needed: %v", err)
	}
}
