package trainerbridge

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// Local trains one adapter with a trainer process of its own. It names the
// adapter's states by versions: version N is the adapter after training step N,
// version 0 is the untrained adapter. Checkpoints and exported adapters are in
// folders below Process.Root and survive the process. Only one goroutine at a
// time may use a Local. Its [Codec] is safe for concurrent use.
type Local struct {
	Process ProcessConfig
	Client  ClientConfig // its Process field is set by Local

	process *Process
	now     current // the same process, for the Codec
	client  *Client
	fresh   bool // the client's adapter is new: version 0
}

// Exported is an adapter on disk.
type Exported struct {
	Dir   string            // absolute; PEFT files and, if asked for, adapter.gguf
	GGUF  string            // path of adapter.gguf; empty if there is none
	Files map[string]string // SHA-256 of each file by its name, verified
}

// Verify compares the files with their manifest again.
func (e Exported) Verify() error {
	_, err := ReadExport(e.Dir)
	return err
}

// Restartable reports whether a restart of the trainer from a checkpoint may
// help against err. It does not help if the trainer refuses the request itself, or
// if it refuses to start.
func Restartable(err error) bool {
	var refused *RequestError
	if errors.As(err, &refused) {
		return refused.Category != CategoryUser
	}
	var exit *ExitError
	if errors.As(err, &exit) && exit.refused {
		return false
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUncertain)
}

// RefusesRows reports whether the error of a pass is about its rows, not about the
// trainer or the connection to it. With other rows the pass may succeed.
func RefusesRows(err error) bool {
	var refused *RequestError
	if errors.As(err, &refused) {
		isAboutContent := refused.Status == 0 || refused.Status == 400 || refused.Status == 413 || refused.Status == 422
		return refused.Category == CategoryUser && isAboutContent
	}
	return !Restartable(err)
}

// ForwardBackward is [Client.ForwardBackward].
func (l *Local) ForwardBackward(ctx context.Context, rows []Row, loss Loss) (Stats, [][]float32, error) {
	l.fresh = false
	return l.client.ForwardBackward(ctx, rows, loss)
}

// OptimStep is [Client.OptimStep].
func (l *Local) OptimStep(ctx context.Context, adam Adam) (Stats, error) {
	l.fresh = false
	return l.client.OptimStep(ctx, adam)
}

// Forward is [Client.Forward].
func (l *Local) Forward(ctx context.Context, rows []Row) ([][]float32, error) {
	return l.client.Forward(ctx, rows)
}

// Save writes the checkpoint of a version.
func (l *Local) Save(ctx context.Context, version int) error {
	return l.client.SaveWeights(ctx, fmt.Sprintf("%06d", version))
}

// Export writes the adapter of a version for inference servers.
func (l *Local) Export(ctx context.Context, version int) (Exported, error) {
	export, err := l.client.SaveForSampler(ctx, fmt.Sprintf("v%06d", version))
	if err != nil {
		return Exported{}, err
	}
	return ReadExport(export.Dir)
}

// ReadExport verifies an exported adapter by the checksums in its manifest and
// describes it.
func ReadExport(dir string) (Exported, error) {
	m, err := manifest.Verify(dir, manifest.Adapter)
	if err != nil {
		return Exported{}, fmt.Errorf("exported adapter: %w\n"+
			"  hint: remove the folder %s; the trainer writes it again", err, dir)
	}
	out := Exported{Dir: dir, Files: map[string]string{}}
	for name, file := range m.Files {
		out.Files[name] = file.SHA256
		if filepath.Ext(name) == ".gguf" {
			out.GGUF = filepath.Join(dir, name)
		}
	}
	return out, nil
}

// Restore sets the adapter and its optimizer to a version. It restarts the
// process if it has ended or does not answer.
func (l *Local) Restore(ctx context.Context, version int) error {
	if version == 0 && l.fresh && l.alive() {
		return nil
	}
	if !l.alive() || l.client == nil {
		if err := l.restart(ctx); err != nil {
			return err
		}
	} else if version == 0 {
		if err := l.dial(ctx); err != nil && ctx.Err() == nil { // the process may hang
			err = l.restart(ctx)
			if err != nil {
				return err
			}
		}
	}
	if version == 0 {
		return nil
	}
	l.fresh = false
	err := l.load(ctx, version)
	if err != nil && Restartable(err) && ctx.Err() == nil {
		if err := l.restart(ctx); err != nil {
			return err
		}
		err = l.load(ctx, version)
	}
	return err
}

func (l *Local) load(ctx context.Context, version int) error {
	if err := l.client.LoadWeights(ctx, fmt.Sprintf("%06d", version), true); err != nil {
		return fmt.Errorf("restore version %d: %w", version, err)
	}
	return nil
}

// alive reports whether the process is running and answers.
func (l *Local) alive() bool {
	if l.process == nil {
		return false
	}
	select {
	case <-l.process.Exited():
		return false
	default:
	}
	return l.client != nil && l.client.Health(context.Background()) == nil
}

func (l *Local) restart(ctx context.Context) error {
	l.now.expect()
	l.halveMemory()
	if err := l.stop(); err != nil {
		l.now.lost(err)
		return err
	}
	process, err := Start(ctx, l.Process)
	if err != nil {
		err = fmt.Errorf("start the trainer: %w", err)
		l.now.lost(err)
		return err
	}
	l.process = process
	l.now.set(process)
	return l.dial(ctx)
}

// SmallestShare bounds the halving of the memory of a micro-batch.
const SmallestShare = 1.0 / 64

// halveMemory lets the next process use half the memory for a micro-batch if the
// system killed the present one for lack of memory. To repeat the same work
// unchanged would end in the same way.
func (l *Local) halveMemory() {
	var exit *ExitError
	if l.process == nil || !errors.As(l.process.Err(), &exit) || !exit.OutOfMemory {
		return
	}
	if l.Process.MemoryShare == 0 {
		l.Process.MemoryShare = 1
	}
	l.Process.MemoryShare = max(l.Process.MemoryShare/2, SmallestShare)
}

// dial creates a new adapter, which is version 0. The process then frees the one before,
// with its optimizer.
func (l *Local) dial(ctx context.Context) error {
	old := l.client
	l.client = nil
	config := l.Client
	config.Process = l.process
	client, err := Dial(ctx, config)
	if old != nil {
		if err == nil {
			old.unload(ctx)
		}
		old.Close()
	}
	if err != nil {
		return err
	}
	l.client, l.fresh = client, true
	return nil
}

// Close stops the process.
func (l *Local) Close() error {
	l.now.lost(errors.New("the trainer was closed"))
	return l.stop()
}

func (l *Local) stop() error {
	if l.client != nil {
		l.client.Close()
		l.client = nil
	}
	if l.process == nil {
		return nil
	}
	err := l.process.Close()
	l.process = nil
	var exit *ExitError
	if errors.As(err, &exit) { // it had ended before; Restore reported that
		return nil
	}
	return err
}
