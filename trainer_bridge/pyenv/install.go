package pyenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// createVenv creates an empty environment.
func (m *maker) createVenv(ctx context.Context, base Interpreter, env Env) error {
	text := fmt.Sprintf("creating a virtual environment with Python %s in %s", base.Version, env.Dir)
	m.tell(Event{Stage: StageCreate, Text: text})
	output, err := stream(ctx, 10*time.Minute, nil, base.Path, "-m", "venv", env.Dir)
	if err == nil {
		return nil
	}
	const op = "create the virtual environment"
	if diskFull(output) {
		return diskError(op, err, output)
	}
	e := &Error{Op: op, Err: err, Output: output}
	text = strings.Join(output, "\n")
	if strings.Contains(text, "ensurepip") || strings.Contains(text, "No module named venv") {
		e.Hint = fmt.Sprintf("apt install python%s-venv (Debian, Ubuntu)", base.Minor())
	}
	return e
}

// install runs pip with the user's own settings and reports its progress.
func (m *maker) install(ctx context.Context, env Env) error {
	list := filepath.Join(env.Dir, "requirements.txt")
	if err := os.WriteFile(list, []byte(strings.Join(m.opts.Requirements, "\n")+"\n"), 0o644); err != nil {
		return diskError("list the requirements", err, nil)
	}
	if len(m.opts.Requirements) == 0 {
		return nil
	}
	progress := &pipProgress{tell: m.tell}
	stop := progress.tick(10 * time.Second)
	output, err := stream(ctx, 3*time.Hour, progress.line, env.Python,
		"-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", "--no-input", "-r", list)
	stop()
	if err == nil {
		return nil
	}
	return pipError(err, output)
}

// pipProgress turns pip's output into events. It is safe for concurrent use.
type pipProgress struct {
	tell func(Event)
	mu   sync.Mutex
	last Event
}

// line reads one line of pip.
func (p *pipProgress) line(text string) {
	e, news := parsePip(text)
	if e.Stage == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = e
	if news {
		p.tell(e)
	}
}

// tick repeats the last event until the returned function is called.
func (p *pipProgress) tick(every time.Duration) (stop func()) {
	p.last = Event{Stage: StageInstall, Text: "pip is starting"}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			p.mu.Lock()
			e := p.last
			e.Tick = true
			p.tell(e)
			p.mu.Unlock()
		}
	}()
	return func() { close(done); <-ended }
}

// parsePip reads one line of pip. News gets a line of its own: large downloads
// and the installation, but not the many small packages.
func parsePip(line string) (e Event, news bool) {
	verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	e = Event{Stage: StageInstall}
	switch verb {
	case "Collecting", "Processing":
		name, _, _ := strings.Cut(rest, " ")
		e.Text, e.Package = "resolving", filepath.Base(name)
	case "Downloading":
		file, size, _ := strings.Cut(rest, " (")
		e.Text, e.Package, e.Size = "downloading", packageOf(file), strings.TrimSuffix(size, ")")
		news = strings.HasSuffix(e.Size, " MB") || strings.HasSuffix(e.Size, " GB")
	case "Installing":
		names := strings.Split(strings.TrimPrefix(rest, "collected packages: "), ", ")
		e.Text, news = fmt.Sprintf("installing %d packages", len(names)), true
	case "Building":
		e.Text = strings.ToLower(strings.TrimSpace(line))
	default:
		return Event{}, false
	}
	return e, news
}

// packageOf returns name and version from the file name or URL of a package.
func packageOf(file string) string {
	parts := strings.SplitN(filepath.Base(file), "-", 3)
	return strings.Join(parts[:min(2, len(parts))], "-")
}

// pipError explains why pip failed. It keeps pip's last lines.
func pipError(err error, output []string) error {
	const op = "install packages"
	if diskFull(output) {
		return diskError(op, err, output)
	}
	e := &Error{Op: op, Err: err, Output: output}
	text := strings.Join(output, "\n")
	has := func(any ...string) bool {
		for _, s := range any {
			if strings.Contains(text, s) {
				return true
			}
		}
		return false
	}
	switch {
	case has("NewConnectionError", "Max retries exceeded", "Temporary failure in name resolution",
		"ReadTimeoutError", "ConnectionResetError", "ProxyError", "Read timed out"):
		e.Hint = "no package index could be reached. pip's settings apply (PIP_INDEX_URL, PIP_PROXY, pip.conf). " +
			"On a machine without network, set EMPO2_PYTHON to an interpreter that has the packages"
	case has("SSLError", "CERTIFICATE_VERIFY_FAILED"):
		e.Hint = "the index's certificate is not trusted here; set PIP_CERT to the file of its authority"
	case has("No matching distribution", "Could not find a version"):
		e.Hint = "the index has no such package for this Python and machine; " +
			"try another Python (python3.11 or 3.12) or another index (PIP_INDEX_URL)"
	case has("HASHES", "hash mismatch"):
		e.Hint = "a download was damaged; run pip cache purge, then try again"
	}
	return e
}

func diskFull(output []string) bool {
	text := strings.Join(output, "\n")
	return strings.Contains(text, "No space left on device") || strings.Contains(text, "Errno 28") ||
		strings.Contains(text, "Disk quota exceeded")
}

// diskError adds a hint if the disk is full.
func diskError(op string, err error, output []string) error {
	e := &Error{Op: op, Err: err, Output: output}
	if diskFull(output) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Hint = "the disk is full. Set EMPO2_CACHE to another folder for environments, " +
			"and TMPDIR and PIP_CACHE_DIR to other folders for pip"
	}
	return e
}
