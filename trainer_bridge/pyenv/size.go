package pyenv

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

const gigabyte = 1 << 30

// announce reports the size of the download. It warns if the disk is too full.
func (m *maker) announce(base Interpreter, env Env) {
	names := make([]string, 0, len(m.opts.Requirements))
	for _, r := range m.opts.Requirements {
		if n := strings.FieldsFunc(r, func(c rune) bool { return strings.ContainsRune("=<>!~;[ @", c) }); len(n) > 0 {
			names = append(names, n[0])
		}
	}
	text, need := estimate(names, runtime.GOOS, os.Getenv)
	if text != "" {
		m.tell(Event{Stage: StageInstall, Text: text})
	}
	if free, ok := freeBytes(m.opts.CacheDir); ok && free < need {
		m.tell(Event{Stage: StageWarning, Text: fmt.Sprintf("%s has %.1f GB free, about %.0f GB are needed",
			m.opts.CacheDir, float64(free)/gigabyte, float64(need)/gigabyte)})
	}
}

// estimate describes the size of a download and returns how many bytes it needs
// on disk. It ignores all packages but torch, which are small.
func estimate(names []string, goos string, getenv func(string) string) (text string, need uint64) {
	torch := false
	for _, n := range names {
		torch = torch || n == "torch"
	}
	cpu := strings.Contains(getenv("PIP_INDEX_URL")+getenv("PIP_EXTRA_INDEX_URL"), "/cpu")
	switch {
	case !torch:
		return "", 0
	case cpu || goos != "linux":
		return "installing torch and its dependencies: a few hundred MB to download, once", 2 * gigabyte
	}
	return "installing torch and its dependencies, once: about 0.9 GB to download for torch and 3 GB for the " +
			"CUDA libraries; with a CPU-only index (PIP_INDEX_URL or PIP_EXTRA_INDEX_URL) it is about 200 MB",
		10 * gigabyte
}
