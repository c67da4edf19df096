package process

import (
	"os"
	"runtime"
	"slices"
	"strings"
)

// notInherited are variables that would change what a child runs without a
// trace in the configuration.
var notInherited = []string{
	// Modules of another Python, and code that runs before the program.
	"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONPLATLIBDIR", "PYTHONEXECUTABLE",
	"__PYVENV_LAUNCHER__",
	// Packages installed elsewhere than into the environment at hand.
	"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN",
	// Replaced by a locale with UTF-8 and English messages, which hints match.
	"LANG", "LANGUAGE", "PYTHONUTF8", "PYTHONIOENCODING",
	// Replaced by their union with the loopback.
	"NO_PROXY", "no_proxy",
}

// withLoopback adds the loopback to lists of hosts that are reached without a
// proxy. "*" means every host, but only where it stands alone.
func withLoopback(lists []string) string {
	hosts := slices.DeleteFunc(slices.Concat(lists, []string{"127.0.0.1", "localhost", "::1"}),
		func(s string) bool { return s == "" })
	if slices.Contains(hosts, "*") {
		return "*"
	}
	return strings.Join(hosts, ",")
}

// Environ is our environment for a child: without the EMPO2_* variables, which
// are for us and may hold keys, without variables that mix another Python into
// it, in a UTF-8 locale, and with direct connections to the loopback. The names
// in without are left out too.
func Environ(without ...string) []string {
	var env, direct []string
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if name == "NO_PROXY" || name == "no_proxy" {
			direct = append(direct, value)
		}
		switch {
		case slices.Contains(notInherited, name), slices.Contains(without, name):
		case strings.HasPrefix(name, "EMPO2_"), strings.HasPrefix(name, "LC_"):
		default:
			env = append(env, kv)
		}
	}
	hosts := withLoopback(direct)
	return append(env,
		"LC_ALL="+utf8Locale(), "PYTHONUTF8=1", "PYTHONUNBUFFERED=1", "PIP_USER=0", "NO_PROXY="+hosts, "no_proxy="+hosts)
}

// utf8Locale is one that every system of the kind has.
func utf8Locale() string {
	if runtime.GOOS == "darwin" {
		return "en_US.UTF-8"
	}
	return "C.UTF-8"
}
