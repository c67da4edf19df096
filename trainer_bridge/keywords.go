package trainerbridge

import (
	"fmt"
	"regexp"
)

// flagKeys are the keys of the configuration that set the trainer's flags.
var flagKeys = map[string]string{
	"device": "trainer.device", "dtype": "trainer.dtype", "quantize": "trainer.quantize", "model": "model.path",
	"gpus": "trainer.gpus", "parallel": "trainer.parallel",
	"threads": "trainer.threads", "micro-batch-tokens": "trainer.micro_batch_tokens",
}

// trainerFlag matches a flag of the trainer, with one of the values that its hints name.
var trainerFlag = regexp.MustCompile(`--([a-z][a-z-]*)\b` +
	`(?: (float32|bfloat16|float16|auto|cpu|cuda|none|nf4|data|fsdp2|\d+)\b)?`)

// inKeys replaces the trainer's flags in a text by the keys that set them. The trainer's
// hints are for its own command line, which the users of empo2 do not see.
func inKeys(text string) string {
	return trainerFlag.ReplaceAllStringFunc(text, func(found string) string {
		m := trainerFlag.FindStringSubmatch(found)
		key, ok := flagKeys[m[1]]
		switch {
		case !ok:
			return found
		case m[2] != "" && m[2][0] >= '0' && m[2][0] <= '9':
			return key + " = " + m[2]
		case m[2] != "":
			return fmt.Sprintf("%s = %q", key, m[2])
		}
		return key
	})
}
