package webshop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// An opener reads the files of a Config.
type opener struct {
	config Config
	ctx    context.Context
	info   Info
	shared interner
	wishes map[string][]wish
	notes  notes
	nouns  nounTagger
}

// Open reads a catalogue, builds the search index and collects the goals. This takes
// several seconds per 10,000 products. The error of a missing, broken or wrong file has
// a hint. The caller must close the family.
func Open(ctx context.Context, c Config) (*Family, error) {
	c = c.defaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	o := &opener{config: c, ctx: ctx, shared: make(interner)}
	if err := o.readSideFiles(); err != nil {
		return nil, err
	}
	random := newPyRandom(c.Seed)
	table := newWordClasses()
	l := &loader{notes: o.notes, random: random, index: newIndexBuilder(table), strings: o.shared, limit: c.NumProducts}
	if err := o.readItems(l); err != nil {
		return nil, err
	}
	f, err := o.assemble(l, table, random)
	if err != nil {
		return nil, errors.Join(err, l.c.close())
	}
	return f, nil
}

// readSideFiles reads all files but the items.
func (o *opener) readSideFiles() error {
	c := o.config
	err := o.read(c.Attributes, func(r io.Reader) (err error) {
		o.notes, err = readNotes(r, o.shared, c.Goals == Synthetic)
		return err
	})
	if err == nil && c.Goals == Human {
		err = o.read(c.Instructions, func(r io.Reader) (err error) {
			o.wishes, err = readWishes(r)
			return err
		})
	}
	o.nouns, o.info.Nouns = guessedNouns{}, "guessed"
	if err == nil && c.Nouns != "" {
		err = o.read(c.Nouns, func(r io.Reader) error {
			list, err := readNouns(r)
			o.nouns, o.info.Nouns = list, "listed"
			return err
		})
	}
	return err
}

// read parses a file and checks its checksum.
func (o *opener) read(path string, parse func(io.Reader) error) error {
	s, err := openSource(o.ctx, path, o.config.OwnData)
	if err != nil {
		return err
	}
	return o.parse(s, parse)
}

func (o *opener) parse(s *source, parse func(io.Reader) error) error {
	parseErr := parse(s.reader)
	info, err := s.finish(o.config.pinned(s.path))
	if err != nil {
		return err // the wrong checksum explains more than the place of the syntax error
	}
	if parseErr != nil {
		return fmt.Errorf("webshop: read %s: %w\n  hint: %s", s.path, parseErr, remedy)
	}
	o.info.Files = append(o.info.Files, info)
	return nil
}

func (o *opener) readItems(l *loader) error {
	s, err := openSource(o.ctx, o.config.Items, o.config.OwnData)
	if err != nil {
		return err
	}
	l.resident = s.packed || s.size <= o.config.ResidentBytes
	err = o.parse(s, func(r io.Reader) error { return l.load(o.ctx, r) })
	if err != nil {
		return err
	}
	if len(l.c.heads) == 0 {
		return fmt.Errorf("webshop: %s has no products\n  hint: %s", o.config.Items, remedy)
	}
	if !l.resident {
		if l.c.file, err = os.Open(o.config.Items); err != nil {
			return fmt.Errorf("webshop: open data: %w", err)
		}
	}
	return nil
}

func (o *opener) assemble(l *loader, table *wordClasses, random *pyRandom) (*Family, error) {
	c := o.config
	if list, ok := o.nouns.(listedNouns); ok {
		if err := list.covers(l.c); err != nil {
			return nil, fmt.Errorf("webshop: %s: %w", c.Nouns, err)
		}
	}
	goals := &goalSet{c: l.c, wishes: o.wishes}
	if c.Goals == Synthetic {
		goals.notes = o.notes
	}
	if err := goals.collectGoals(random); err != nil {
		return nil, fmt.Errorf("webshop: goals of %s: %w", c.Attributes, err)
	}
	if len(goals.goals) == 0 {
		return nil, fmt.Errorf("webshop: there is no %s goal for these products\n  hint: check that %s and the items belong "+
			"together, or choose the other kind of goals", c.Goals, c.Attributes)
	}
	shuffled := newPyRandom(c.shuffleSeed())
	shuffled.shuffle(len(goals.goals), func(i, j int) {
		goals.goals[i], goals.goals[j] = goals.goals[j], goals.goals[i]
	})
	ids := make([]string, len(l.c.heads))
	for i := range ids {
		ids[i] = l.c.heads[i].asin
	}
	o.info.Products, o.info.Goals = len(ids), len(goals.goals)
	o.info.GoalKind, o.info.Mode, o.info.SeedMode, o.info.Seed = c.Goals, c.Mode, c.SeedMode, c.Seed
	return &Family{
		config: c,
		info:   o.info,
		goals:  goals,
		shop:   &shop{catalogue: l.c, index: l.index.build(table, ids), mode: c.Mode, nouns: o.nouns},
	}, nil
}
