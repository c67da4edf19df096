package inspect

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
)

// Machine is the hardware that a run would use.
type Machine struct {
	Cores  int
	Memory int64 // bytes of main memory that this process may use; 0: unknown
	Free   int64 // bytes of it that are not in use, file caches included; 0: unknown
	GPUs   []GPU
}

// GPU is one graphics processor.
type GPU struct {
	Name   string
	Memory int64 // bytes; 0: unknown
}

// A Probe examines a machine. The zero value examines this one. Tests replace
// its parts.
type Probe struct {
	Root string // prefix of /proc, /sys and /dev
	// Run runs a command and returns its output; nil: exec.
	Run func(name string, args ...string) (string, error)
}

// Machine examines the machine. Unknown values are 0.
func (p Probe) Machine() Machine {
	m := Machine{Cores: runtime.NumCPU(), GPUs: p.gpus()}
	m.Memory, m.Free = p.memory()
	return m
}

const mebibyte = 1 << 20

// memory reads /proc/meminfo and the limits of the control groups. On macOS it
// asks sysctl, and does not know what is free.
func (p Probe) memory() (total, free int64) {
	text, err := os.ReadFile(p.path("/proc/meminfo"))
	if err != nil {
		out, _ := p.run("sysctl", "-n", "hw.memsize")
		total, _ = strconv.ParseInt(strings.TrimSpace(out), 10, 64)
		return total, 0
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64) // 0 for a line of another form
		switch f[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			free = kib << 10
		}
	}
	for _, group := range p.controlGroups() {
		total, free = min(total, group.limit), min(free, group.free)
	}
	return total, free
}

// gpus asks nvidia-smi. If that fails, it looks at the driver's files.
func (p Probe) gpus() []GPU {
	out, err := p.run("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
	if err == nil {
		return parseSMI(out)
	}
	var gpus []GPU
	files, _ := filepath.Glob(p.path("/proc/driver/nvidia/gpus/*/information")) // the pattern is valid
	for _, file := range files {
		gpus = append(gpus, GPU{Name: modelLine(file)})
	}
	for _, d := range drivers {
		if len(gpus) == 0 && p.exists(d.file) {
			gpus = append(gpus, GPU{Name: d.gpu})
		}
	}
	return gpus
}

// drivers are files that exist only where torch can use a GPU.
var drivers = []struct{ file, gpu string }{
	{"/dev/nvidiactl", "NVIDIA GPU"},
	{"/dev/kfd", "AMD GPU"},
	{"/dev/nvhost-gpu", "NVIDIA GPU of Jetson"},
	{"/usr/lib/wsl/lib/libcuda.so.1", "NVIDIA GPU of WSL2"}, // /dev/dxg also exists without a GPU
}

// HasGPU reports whether there is a GPU that torch can use. It runs a command only in
// WSL2, where a container may have the driver in any folder.
func (p Probe) HasGPU() bool {
	for _, d := range drivers {
		if p.exists(d.file) {
			return true
		}
	}
	return p.exists("/dev/dxg") && len(p.gpus()) > 0
}

func (p Probe) exists(path string) bool {
	_, err := os.Stat(p.path(path))
	return err == nil
}

// parseSMI reads lines such as "NVIDIA H100 80GB HBM3, 81559" (MiB).
func parseSMI(out string) []GPU {
	var gpus []GPU
	for line := range strings.Lines(out) {
		i := strings.LastIndex(line, ",")
		if i < 0 {
			continue
		}
		mib, _ := strconv.ParseInt(strings.TrimSpace(line[i+1:]), 10, 64)
		gpus = append(gpus, GPU{Name: strings.TrimSpace(line[:i]), Memory: mib * mebibyte})
	}
	return gpus
}

// modelLine returns the line "Model:" of the NVIDIA driver's file on a GPU.
func modelLine(file string) string {
	text, _ := os.ReadFile(file) // fails if the driver was unloaded meanwhile
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "Model:"); ok {
			return strings.TrimSpace(name)
		}
	}
	return "NVIDIA GPU"
}

func (p Probe) path(path string) string { return filepath.Join("/", p.Root, path) }

// probeTimeout bounds a command such as nvidia-smi, which hangs on a broken
// driver.
const probeTimeout = 10 * time.Second

func (p Probe) run(name string, args ...string) (string, error) {
	if p.Run != nil {
		return p.Run(name, args...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = process.Environ(process.Libraries)
	out, err := cmd.Output()
	return string(out), err
}
