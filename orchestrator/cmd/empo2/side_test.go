package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSides(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"mine.tmpl", "with space.tmpl"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := func(text string, want sideParts) {
		t.Helper()
		got, err := parseSide(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(sideParts{})); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	f("mine.tmpl", sideParts{sets: []string{"prompt.template=mine.tmpl"}})
	f("plain", sideParts{sets: []string{"prompt.template=plain"}})
	f("vault@12", sideParts{target: "vault@12"})
	f("vault, with space.tmpl", sideParts{target: "vault", sets: []string{"prompt.template=with space.tmpl"}})
	f("env.vault.houses=[1,2],rollout.max_tokens=64",
		sideParts{sets: []string{"env.vault.houses=[1,2]", "rollout.max_tokens=64"}})
	f(`tips=none`, sideParts{tips: []string{"none"}})
	f(`tips="at oak, pull wax",tips='at clay, pull tin'`,
		sideParts{tips: []string{"at oak, pull wax", "at clay, pull tin"}})
	f(`sampler.template_args={enable_thinking=false, a="x,y"},vault`,
		sideParts{target: "vault", sets: []string{`sampler.template_args={enable_thinking=false, a="x,y"}`}})

	bad := func(text string) {
		t.Helper()
		if got, err := parseSide(text); err == nil {
			t.Errorf("%q is taken: %+v", text, got)
		}
	}
	bad("")
	bad("vault,")
	bad("vault@1,vault@2")
}
