package inspect

import (
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// A controlGroup limits the memory of its processes.
type controlGroup struct{ limit, free int64 }

// controlGroupFiles are the files of the two versions of the interface.
var controlGroupFiles = map[bool]struct{ root, limit, used, cached string }{
	true:  {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"},
	false: {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"},
}

// controlGroups are the groups of this process that have a limit, and those
// above them.
func (p Probe) controlGroups() []controlGroup {
	folders := map[bool][]string{true: {"/"}} // a container sees its own group as the root
	text, _ := os.ReadFile(p.path("/proc/self/cgroup"))
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && (parts[1] == "" || parts[1] == "memory") {
			folders[parts[1] == ""] = append(folders[parts[1] == ""], parts[2])
		}
	}
	var found []controlGroup
	for second, names := range folders {
		files := controlGroupFiles[second]
		for _, name := range names {
			for {
				folder := path.Join(files.root, name)
				limit, ok := p.number(path.Join(folder, files.limit))
				if used, known := p.number(path.Join(folder, files.used)); ok && known {
					cached := p.statistic(path.Join(folder, "memory.stat"), files.cached)
					found = append(found, controlGroup{limit, max(0, limit-used+cached)})
				} else if ok {
					found = append(found, controlGroup{limit, math.MaxInt64})
				}
				if name == "/" || name == "." {
					break
				}
				name = path.Dir(name)
			}
		}
	}
	return found
}

// number reads a file with one number. The text "max" is none.
func (p Probe) number(file string) (int64, bool) {
	text, err := os.ReadFile(p.path(file))
	n, bad := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil && bad == nil
}

// statistic is the value of a name in a file of names and numbers, or 0.
func (p Probe) statistic(file, name string) int64 {
	text, _ := os.ReadFile(p.path(file))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}
