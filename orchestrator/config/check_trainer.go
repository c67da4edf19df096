package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// isModuleKeyword reports whether a target module is a keyword rather than a
// name.
func isModuleKeyword(name string) bool { return name == AllLinear || name == "attention" }

// device matches the devices that the trainer is written for.
var device = regexp.MustCompile(`^(auto|cpu|cuda(:\d{1,4})?)$`)

func trainerRules(t Trainer) []rule {
	named := len(t.TargetModules) > 0 && !slices.Contains(t.TargetModules, "")
	alone := len(t.TargetModules) == 1 || !slices.ContainsFunc(t.TargetModules, isModuleKeyword)
	return append(environmentVariables("trainer.env", t.Env),
		optionalAddress("trainer.url", t.URL),
		between("trainer.rank", float64(t.Rank), 1, 1024),
		positive("trainer.alpha", t.Alpha, maxAlpha),
		rule{"trainer.target_modules", named, "names no module", `["all-linear"], or names such as ["q_proj", "v_proj"]`},
		rule{"trainer.target_modules", alone, "all-linear and attention cannot be combined with other names",
			`["all-linear"], ["attention"], or only names`},
		oneOfOrAuto("trainer.dtype", t.Dtype, "float32", "bfloat16", "float16"),
		oneOf("trainer.quantize", t.Quantize, "none", "nf4"),
		between("trainer.micro_batch_tokens", float64(t.MicroBatch), 0, 1e9),
		rule{"trainer.device", device.MatchString(t.Device), fmt.Sprintf("unknown value %q", t.Device),
			`"auto", "cpu", "cuda" or "cuda:0"`},
		between("trainer.gpus", float64(t.GPUs), 1, 1024),
		rule{"trainer.gpus", t.GPUs <= 1 || !strings.Contains(t.Device, ":"),
			fmt.Sprintf("%d GPUs, but trainer.device = %q names one", t.GPUs, t.Device),
			`device = "auto"; trainer.env = ["CUDA_VISIBLE_DEVICES=2,3"] chooses among the GPUs`},
		oneOf("trainer.parallel", t.Parallel, "auto", "data", "fsdp2"),
		rule{"trainer.parallel", t.Parallel != "fsdp2" || t.Quantize == "none" || t.GPUs <= 1,
			"a base model in 4 bits cannot be sharded", `parallel = "data", or quantize = "none"`},
		between("trainer.threads", float64(t.Threads), 0, 1024),
		duration("trainer.timeout_seconds", t.TimeoutSeconds),
		between("trainer.restarts", float64(t.Restarts), 0, 1000),
		between("trainer.max_incomplete_steps", float64(t.MaxIncompleteSteps), 0, 1e9),
	)
}
