package trainerbridge

import (
	"strings"
	"testing"
)

// One refusal names everything that must be set, so that the next run starts.
func TestRefusalNamesAllSettings(t *testing.T) {
	f := func(d Deviations, want Demands, command string) {
		t.Helper()
		err := d.refuse(want)
		switch {
		case command == "" && err != nil:
			t.Errorf("%+v: %v", want, err)
		case command != "" && (err == nil || !strings.HasSuffix(err.Error(), " add: "+command)):
			t.Errorf("%+v: %v\nwant %s", want, err, command)
		}
	}
	all := Demands{ExactKL: true, Entropy: true, Clipping: true, Modules: true}
	f(skyRL, Demands{Clipping: true}, "--set optimizer.grad_clip_norm=0")
	f(skyRL, all, "--set loss.kl_estimator=k3 --set loss.entropy=0 --set optimizer.grad_clip_norm=0 "+
		`--set 'trainer.target_modules=["all-linear"]'`)
	f(tinkerService, Demands{Clipping: true}, "")
	f(skyRL, Demands{}, "")
	f(ownTrainer, all, "")
}
