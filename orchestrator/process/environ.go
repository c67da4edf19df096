package process

import (
	"os"
	"runtime"
	"slices"
	"strings"
)

// notInherited are variables that would change how a child runs although the
// configuration does not mention them.
var notInherited = []string{
	// Modules of another Python, and code that runs before the program.
	"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONPLATLIBDIR", "PYTHONEXECUTABLE",
	"__PYVENV_LAUNCHER__",
	// These make pip install packages outside the Python environment.
	"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN",
	// Replaced by a locale with UTF-8 and English messages, which hints match.
	"LANG", "LANGUAGE", "PYTHONUTF8", "PYTHONIOENCODING",
	// Replaced by their union with the loopback.
	"NO_PROXY", "no_proxy",
}

// withLoopback joins lists of hosts that are reached without a proxy, and adds
// the loopback. "*" means every host, but only if it is the whole list.
func withLoopback(lists []string) string {
	hosts := slices.DeleteFunc(slices.Concat(lists, []string{"127.0.0.1", "localhost", "::1"}),
		func(s string) bool { return s == "" })
	if slices.Contains(hosts, "*") {
		return "*"
	}
	return strings.Join(hosts, ",")
}

// Environ returns the environment for a child. It is our environment with these
// changes:
//   - EMPO2_* variables are removed: they may hold keys;
//   - variables that mix in another Python are removed;
//   - the names in without are removed;
//   - the locale is UTF-8;
//   - connections to the loopback use no proxy.
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
		"LC_ALL="+utf8Locale(), "PYTHONUTF8=1", "PYTHONUNBUFFERED=1", "PIP_USER=0",
		"NO_PROXY="+hosts, "no_proxy="+hosts)
}

// utf8Locale returns a locale that every such operating system has.
func utf8Locale() string {
	if runtime.GOOS == "darwin" {
		return "en_US.UTF-8"
	}
	return "C.UTF-8"
}
