package process

import (
	"slices"
	"strings"
	"testing"
)

// Start, Keep and Output all clean the environment.
func TestEnvironmentIsCleaned(t *testing.T) {
	for _, name := range []string{
		"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONIOENCODING", "PIP_TARGET", "PIP_PREFIX",
		"LANG", "LC_CTYPE", "LC_ALL", "OUT",
		"EMPO2_SERVER_KEY", "EMPO2_ENV_KEY", "EMPO2_EMBEDDER_KEY", "EMPO2_ANYTHING",
	} {
		t.Setenv(name, "/from-outside")
	}
	t.Setenv("PIP_USER", "1")
	t.Setenv("NO_PROXY", "corp.example")
	t.Setenv("HTTP_PROXY", "http://proxy.example:3128")
	check := func(how string, env []string) {
		t.Helper()
		for _, kv := range env {
			if strings.Contains(kv, "/from-outside") {
				t.Errorf("%s: %s is inherited", how, kv)
			}
		}
		for _, want := range []string{
			"PIP_USER=0", "PYTHONUTF8=1", "HTTP_PROXY=http://proxy.example:3128", "OWN=value",
			"NO_PROXY=corp.example,127.0.0.1,localhost,::1", "no_proxy=corp.example,127.0.0.1,localhost,::1",
			"LC_ALL=" + utf8Locale(),
		} {
			if !slices.Contains(env, want) {
				t.Errorf("%s: %s is missing", how, want)
			}
		}
	}
	command := func() Command {
		c := script(t.TempDir(), "env; env >env; echo ready; read line")
		c.Env, c.Without, c.Stdin = []string{"OWN=value"}, []string{"OUT"}, true
		return c
	}
	c := command()
	start(t, c)
	check("Start", strings.Split(read(t, c.Dir, "env"), "\n"))
	c = command()
	s := keep(t, c, Budget{})
	check("Keep", strings.Split(read(t, c.Dir, "env"), "\n"))
	s.Close()
	answer, err := Output(t.Context(), command())
	if err == nil {
		t.Error("read from /dev/null succeeded")
	}
	check("Output", strings.Split(string(answer), "\n"))
}

func TestHostsWithoutProxy(t *testing.T) {
	f := func(want string, lists ...string) {
		t.Helper()
		if got := withLoopback(lists); got != want {
			t.Errorf("%q: %q, want %q", lists, got, want)
		}
	}
	f("127.0.0.1,localhost,::1")
	f("a,b,c,127.0.0.1,localhost,::1", "a,b", "", "c")
	f("*", "*")
	f("*", "a", "*")
}
