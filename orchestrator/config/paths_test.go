package config

import (
	"strings"
	"testing"
)

func TestHomeInPaths(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	f := func(set, want string) {
		t.Helper()
		c, err := Source{Profile: Demo, Sets: []string{"run.dir=" + set}}.Load()
		if err != nil || c.Run.Dir != want {
			t.Errorf("%s: %q (%v), want %q", set, c.Run.Dir, err, want)
		}
	}
	f("~", "/home/me")
	f("~/runs", "/home/me/runs")
	f("./~", "./~")
	f("a~b", "a~b")
	f("./$x", "./$x")
	c, err := Source{Profile: Demo, Sets: []string{"model.path=~/m"}}.Load()
	if err != nil || c.Model.Path != "/home/me/m" {
		t.Errorf("model.path: %q (%v)", c.Model.Path, err)
	}
	refused := func(home, set string) {
		t.Helper()
		t.Setenv("HOME", home)
		_, err := Source{Profile: Demo, Sets: []string{set}}.Load()
		if err == nil || !strings.Contains(err.Error(), "hint:") {
			t.Errorf("%s: got %v", set, err)
		}
	}
	refused("/home/me", "run.dir=~other/runs")
	refused("", "run.dir=~/runs")
	refused("/home/me", "run.dir=$HOME/runs")
	refused("/home/me", "prompt.template=${HOME}/mine.tmpl")
	refused("/home/me", "run.name="+strings.Repeat("n", 300))
	refused("/home/me", "run.name=a\nb")
	refused("/home/me", "run.name=a/b")
	refused("/home/me", "run.name=-v")
	refused("/home/me", `run.name=" a"`)
}
