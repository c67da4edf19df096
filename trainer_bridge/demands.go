package trainerbridge

import (
	"errors"
	"fmt"
	"strings"
)

// Demands are what a run asks of its trainer.
type Demands struct {
	ExactKL  bool // the KL divergence over the whole vocabulary
	Entropy  bool // the entropy bonus
	Clipping bool // the norm of the gradient is bounded
	// Modules are chosen by name, not all linear ones.
	Modules bool
}

// refuse returns an error of all demands that a trainer does not meet, with the settings that drop them.
func (d Deviations) refuse(want Demands) error {
	var faults []error
	var settings []string
	check := func(unmet bool, key string, err error, setting string) {
		if unmet {
			faults, settings = append(faults, fmt.Errorf("%s: %s: %w", key, d.name(), err)), append(settings, setting)
		}
	}
	check(want.ExactKL && d.NoEmpo2, "loss.kl", errExactKL, "loss.kl_estimator=k3")
	check(want.Entropy && d.NoEmpo2, "loss.entropy", errEntropy, "loss.entropy=0")
	check(want.Clipping && d.NoClipping, "optimizer.grad_clip_norm", errors.New("it ignores the bound of the gradient's "+
		"norm\n  hint: set it to 0; loss.clip_low, loss.clip_high and loss.dual_clip still bound an update"),
		"optimizer.grad_clip_norm=0")
	check(want.Modules && d.OwnModules, "trainer.target_modules", errors.New("it chooses the modules itself\n"+
		"  hint: leave it at [\"all-linear\"]"), `trainer.target_modules=["all-linear"]`)
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w\n  for a run with this trainer add: %s", errors.Join(faults...), flags(settings))
}

// flags are settings as arguments of a shell.
func flags(settings []string) string {
	out := make([]string, len(settings))
	for i, s := range settings {
		if strings.ContainsAny(s, `["`) {
			s = "'" + s + "'"
		}
		out[i] = "--set " + s
	}
	return strings.Join(out, " ")
}
