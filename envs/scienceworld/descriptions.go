package scienceworld

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// descriptions are the simulator's task texts by variant id. A text costs a
// load of the variant, about a tenth of a second, so they are kept in a file
// from run to run. The file is a cache: losing it costs time only.
type descriptions struct {
	path string // "" = not kept

	mu    sync.Mutex
	texts map[string]string
}

// openDescriptions reads what earlier runs with the same jar and the same
// simplifications have kept.
func openDescriptions(dir string, j jar, simplifications string) (*descriptions, error) {
	d := &descriptions{texts: make(map[string]string)}
	if dir == "" {
		return d, nil
	}
	name := fmt.Sprintf("tasks-%.12s-%s.json", j.sha256, strings.ReplaceAll(simplifications, ",", "-"))
	d.path = filepath.Join(dir, "scienceworld", name)
	data, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &d.texts)
	}
	if err != nil {
		d.texts = make(map[string]string)
		return d, fmt.Errorf("read task texts %s: %w", d.path, err)
	}
	return d, nil
}

func (d *descriptions) get(v variant) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text, ok := d.texts[v.String()]
	return text, ok
}

func (d *descriptions) put(v variant, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.texts[v.String()] = text
}

// save writes the file whole or not at all.
func (d *descriptions) save() error {
	if d.path == "" {
		return nil
	}
	d.mu.Lock()
	data, err := json.MarshalIndent(maps.Clone(d.texts), "", " ")
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(d.path), 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(d.path), filepath.Base(d.path)+".*")
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), d.path)
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return err
}

// describe reads the texts of the variants that are not known yet, on as many
// simulators as workers says.
func (d *descriptions) describe(ctx context.Context, p *pool, simplifications string, workers int, variants []variant) error {
	missing := make(chan variant, len(variants))
	for _, v := range variants {
		if _, ok := d.get(v); !ok {
			missing <- v
		}
	}
	close(missing)
	if len(missing) == 0 {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for range min(workers, len(missing)) {
		g.Go(func() error {
			return p.with(ctx, func(sim *simulator) error {
				return d.read(ctx, sim, simplifications, missing)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return d.save()
}

func (d *descriptions) read(ctx context.Context, sim *simulator, simplifications string, missing <-chan variant) error {
	for v := range missing {
		if err := sim.load(ctx, v.task, v.variation, simplifications); err != nil {
			return err
		}
		text, err := callAs[string](ctx, sim, "freeActionTaskDesc")
		if err != nil {
			return err
		}
		d.put(v, text)
	}
	return nil
}
