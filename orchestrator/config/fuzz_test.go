package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkFault checks that an error names a place and a remedy and shows no value of Go.
func checkFault(t *testing.T, err error) {
	t.Helper()
	var fault *Error
	if !errors.As(err, &fault) || fault.Place == "" || fault.Hint == "" || fault.Msg == "" {
		t.Fatalf("%q lacks a place or a hint", err)
	}
	for _, goValue := range []string{"%!", "map[", "0xc0"} {
		if strings.Contains(fault.Msg, goValue) && !strings.Contains(fault.Place, goValue) {
			t.Fatalf("%q shows a value of Go", err)
		}
	}
}

// An accepted file has the same values after writing and reading. A refused file
// gets an error with a place and a hint.
func FuzzFile(f *testing.F) {
	f.Add("[run]\nsteps = 3\n")
	f.Add("profile = \"demo\"\n[env.vault]\nhouses = [1, 2]\n")
	f.Add("[sampler.template_args]\nenable_thinking = true\n[sampler]\ntemplate_args = \"{}\"\n")
	f.Add("[run]\nname = \"a\\u0000\"\nmax_seconds = 1e300\n")
	f.Add("profile = [\"demo\"]\n[a.b]\n[[run]]\nx = {y = 1}\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := LoadText(text, "c.toml", Machine{})
		if err != nil {
			checkFault(t, err)
			return
		}
		if again := clone(c); cmp.Diff(c, again) != "" {
			t.Fatalf("differs after writing and reading:\n%s", cmp.Diff(c, again))
		}
	})
}

// A --set changes its own key only.
func FuzzSet(f *testing.F) {
	for _, s := range []string{"run.steps=3", "run.name=a b", "env.vault.houses=[1,2]", "run.name='''a",
		"run.name=\"a\" #",
		"run.steps=1\nrun.seed=3", "sampler.template_args={a=1}", "profile=demo", "run.dir=]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, set string) {
		before := Default()
		after, given := clone(before), map[string]string{}
		if err := applySet(set, &after, given); err != nil {
			checkFault(t, err)
			return
		}
		key, _, _ := strings.Cut(set, "=")
		key = strings.TrimSpace(key)
		for _, d := range Differences(before, after) {
			if changed, _, _ := strings.Cut(d, ":"); changed != key && !strings.HasPrefix(changed, key+".") {
				t.Fatalf("--set %q changes %s", set, changed)
			}
		}
	})
}
