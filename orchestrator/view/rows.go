package view

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/rollout"
)

// filter selects the episodes of the query by their facts.
func (q Query) filter() ledger.Filter {
	f := ledger.AllOf(q.kind())
	f.Step, f.Group, f.Episode = q.In.Step, q.In.Group, q.In.Episode
	f.Cut, f.WithTips = q.Cut, q.WithTips
	if q.Failed {
		f.Stop = string(rollout.StopFailed)
	}
	return f
}

// List is [Run.Episodes] without trajectories, tips that were written, and errors.
// It reads no large column.
func (r *Run) List(ctx context.Context, q Query, yield func(Episode) error) error {
	f := q.filter()
	f.Order, f.Details, f.Limit = ledger.OldestFirst, true, listed
	for {
		found, err := r.rows(ctx, f)
		if err != nil {
			return err
		}
		for _, e := range found {
			if err := yield(e); err != nil {
				return err
			}
		}
		if len(found) < listed {
			return nil
		}
		f.After = after(found[len(found)-1].Place)
	}
}

// listed is how many rows are read at once.
const listed = 500

// after is the place behind which a list goes on.
func after(p Place) *ledger.Episode {
	return &ledger.Episode{Step: p.Step, Group: p.Group, Episode: p.Episode}
}

// rows returns the episodes that a filter selects.
func (r *Run) rows(ctx context.Context, f ledger.Filter) ([]Episode, error) {
	if err := r.ledger.FillFacts(ctx, orchestrator.FactsOf); err != nil {
		return nil, err
	}
	var out []Episode
	err := r.ledger.Rows(ctx, f, func(row ledger.Row) error {
		e := Episode{
			Place: Place{row.Step, row.Group, row.Episode.Episode}, Kind: cmp.Or(row.Kind, kindTraining), Task: row.Task,
			Mode: row.Mode, Version: row.Version, Return: row.EnvReturn, Score: row.Score, Success: row.Success,
			Stop: row.Stop, At: row.At, Turns: row.Facts.Turns, Cut: row.Facts.Cut, Empty: row.Facts.Empty,
			TipsShown: row.Facts.TipsShown,
		}
		e.Estimate = estimateOf(row.Estimate)
		out = append(out, e)
		return nil
	})
	return out, err
}

// Page is a part of a list of episodes.
type Page struct {
	Rows []Episode
	// Next is the place behind which the list goes on; nil: it is complete.
	Next *Place
	// Searched counts the episodes whose texts were searched.
	Searched int
}

// How much a search reads for one page. What it reads is compressed.
const (
	searchedEpisodes = 1500
	searchedBytes    = 12 << 20
)

// PageOf returns the episodes that a filter selects and whose texts contain text,
// whatever the case of its letters; empty: all. f.Limit must be positive. A search
// ends early if it has read much, and the next page goes on with it.
func (r *Run) PageOf(ctx context.Context, f ledger.Filter, text string) (Page, error) {
	if text == "" {
		found, err := r.rows(ctx, f)
		p := Page{Rows: found}
		if len(found) == f.Limit {
			p.Next = &found[len(found)-1].Place
		}
		return p, err
	}
	return r.search(ctx, f, strings.ToLower(text))
}

// search returns the next episodes that have a text, which is in lower case.
func (r *Run) search(ctx context.Context, f ledger.Filter, text string) (Page, error) {
	var p Page
	quoted, err := json.Marshal(text)
	if err != nil {
		return p, err
	}
	needle := bytes.ToLower(quoted[1 : len(quoted)-1])
	limit, read := f.Limit, 0
	f.Limit = listed
	for {
		found, err := r.rows(ctx, f)
		if err != nil {
			return p, err
		}
		for i, e := range found {
			stored, err := r.ledger.At(ctx, f.Kind, e.Place.Step, e.Place.Group, e.Place.Episode)
			if err != nil {
				return p, err
			}
			p.Searched++
			if stored != nil && contains(stored.Trajectory, needle, text) {
				p.Rows = append(p.Rows, e)
			}
			if stored != nil {
				read += len(stored.Trajectory)
			}
			if len(p.Rows) == limit || p.Searched == searchedEpisodes || read >= searchedBytes {
				p.Next = &found[i].Place
				return p, nil
			}
		}
		if len(found) < listed {
			return p, nil
		}
		f.After = after(found[len(found)-1].Place)
	}
}

// contains reports whether a stored episode has a text in one of its texts. text is
// in lower case, and needle is the same as it is written in JSON.
func contains(trajectory, needle []byte, text string) bool {
	var all any
	return bytes.Contains(bytes.ToLower(trajectory), needle) && json.Unmarshal(trajectory, &all) == nil &&
		hasText(all, text)
}

// hasText reports whether a decoded JSON value has a text in a string that is not the
// name of a field.
func hasText(v any, text string) bool {
	within := func(v any) bool { return hasText(v, text) }
	switch v := v.(type) {
	case string:
		return strings.Contains(strings.ToLower(v), text)
	case []any:
		return slices.ContainsFunc(v, within)
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(v)), within)
	}
	return false
}

// Count returns the number of episodes that a filter selects, whatever its limit.
func (r *Run) Count(ctx context.Context, f ledger.Filter) (int, error) {
	if err := r.ledger.FillFacts(ctx, orchestrator.FactsOf); err != nil {
		return 0, err
	}
	return r.ledger.Count(ctx, f)
}

// Names returns the tasks and the modes of a kind's episodes in order. limit is the
// largest number of tasks.
func (r *Run) Names(ctx context.Context, kind string, limit int) (tasks, modes []string, err error) {
	if err := r.ledger.FillFacts(ctx, orchestrator.FactsOf); err != nil {
		return nil, nil, err
	}
	return r.ledger.Names(ctx, kind, limit)
}

// CountBetween returns the number of training episodes of the steps after one and
// until another.
func (r *Run) CountBetween(ctx context.Context, after, until int64) (int, error) {
	return r.ledger.CountBetween(ctx, after, until)
}

// Pieces returns the texts of token ids, as far as the run has stored them.
func (r *Run) Pieces(ctx context.Context, ids []int32) (map[int32]string, error) {
	return r.ledger.Pieces(ctx, ids)
}
