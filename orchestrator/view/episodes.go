package view

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// Place names a step, a group or an episode. The others are -1.
type Place struct {
	Step           int64
	Group, Episode int
}

// Everywhere is the place that contains all others.
var Everywhere = Place{-1, -1, -1}

// ParsePlace reads STEP, STEP/GROUP or STEP/GROUP/EPISODE. An empty text is
// [Everywhere].
func ParsePlace(text string) (Place, error) {
	p := Everywhere
	if text == "" {
		return p, nil
	}
	parts := strings.Split(text, "/")
	if len(parts) > 3 {
		return p, fmt.Errorf("%q has %d parts, STEP/GROUP/EPISODE has 3", text, len(parts))
	}
	for i, part := range parts {
		n, err := strconv.ParseInt(part, 10, 32)
		if err != nil || n < 0 {
			return p, fmt.Errorf("%q is not a number of a step, group or episode", part)
		}
		switch i {
		case 0:
			p.Step = n
		case 1:
			p.Group = int(n)
		case 2:
			p.Episode = int(n)
		}
	}
	return p, nil
}

// One reports whether the place is a single episode.
func (p Place) One() bool { return p.Episode >= 0 }

func (p Place) String() string {
	text := ""
	for _, n := range []int64{p.Step, int64(p.Group), int64(p.Episode)} {
		if n < 0 {
			break
		}
		text += "/" + strconv.FormatInt(n, 10)
	}
	return strings.TrimPrefix(text, "/")
}

// MarshalText implements [encoding.TextMarshaler].
func (p Place) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p Place) contains(e ledger.Episode) bool {
	return (p.Step < 0 || p.Step == e.Step) && (p.Group < 0 || p.Group == e.Group) &&
		(p.Episode < 0 || p.Episode == e.Episode)
}

// Query selects episodes. The zero value selects step 0; use [Everywhere].
type Query struct {
	// Kind is empty for training episodes, a split for those of evaluations, or
	// "command" for those of empo2 eval, and "ab" for those of empo2 ab.
	Kind string
	In   Place
	// Each condition that is set must hold.
	Cut      bool // a reply was cut at the limit of tokens
	Failed   bool // it failed after all retries
	WithTips bool // its prompts showed a tip
}

// kind is that of the stored episodes.
func (q Query) kind() string {
	if q.Failed && q.Kind == "" {
		return ledger.KindFailed
	}
	return q.Kind
}

func (q Query) selects(e Episode) bool {
	return q.In.contains(ledger.Episode{Step: e.Place.Step, Group: e.Place.Group, Episode: e.Place.Episode}) &&
		(!q.Cut || e.Cut > 0) && (!q.WithTips || e.TipsShown > 0) && (!q.Failed || e.Trajectory.Failed())
}

// Episode is a stored episode, and what its step made of it.
type Episode struct {
	Place   Place   `json:"place"`
	Kind    string  `json:"kind"` // training, failed, eval, test, command or ab
	Task    string  `json:"task"`
	Mode    string  `json:"mode"`
	Version int     `json:"version"`
	Return  float64 `json:"return"` // of the environment
	Score   float64 `json:"score"`
	Success bool    `json:"success"`
	Stop    string  `json:"stop"`
	Error   string  `json:"error,omitempty"`
	At      string  `json:"at,omitempty"` // when it ended

	Turns     int    `json:"turns"`
	Cut       int    `json:"cut"`        // replies cut at the limit of tokens
	Empty     int    `json:"empty"`      // replies without an action
	TipsShown int    `json:"tips_shown"` // in its prompts
	Tip       string `json:"tip"`        // written after it

	// Estimate is nil until the step is committed, and for episodes that are not
	// trained.
	Estimate *Estimate `json:"estimate"`

	Trajectory rollout.Trajectory `json:"-"`
}

// Estimate is what the commit of a step has recorded of an episode.
type Estimate struct {
	Advantage float64 `json:"advantage"`
	Bonus     float64 `json:"bonus"`  // intrinsic reward
	Tokens    int     `json:"tokens"` // trained; 0: not trained
	// Logprobs are the trainer's of the trained tokens before the update; nil: not
	// computed.
	Logprobs sampler.Logprobs `json:"-"`
}

// kindTraining is the kind of training episodes in [Episode].
const kindTraining = "training"

func episodeOf(e ledger.Episode) (Episode, error) {
	t, err := orchestrator.EpisodeOf(e)
	if err != nil {
		return Episode{}, err
	}
	out := Episode{
		Place: Place{e.Step, e.Group, e.Episode}, Kind: cmp.Or(e.Kind, kindTraining), Task: e.Task, Mode: e.Mode,
		Version: e.Version, Return: e.EnvReturn, Score: e.Score, Success: e.Success, Stop: e.Stop, Error: t.Err, At: e.At,
		Turns: len(t.Turns), Tip: t.Tip, Trajectory: t,
	}
	for _, turn := range t.Turns {
		out.TipsShown += len(turn.Tips)
		if turn.Finish == sampler.FinishLength {
			out.Cut++
		}
		if turn.Action == "" {
			out.Empty++
		}
	}
	return out, nil
}

// Episodes calls yield with each episode that the query selects, by step, group and
// number, and stops at its first error. It holds few episodes in memory.
func (r *Run) Episodes(ctx context.Context, q Query, yield func(Episode) error) error {
	if q.In.Step < 0 && (q.Cut || q.WithTips) { // most episodes need not be read
		return r.List(ctx, q, func(e Episode) error {
			whole, err := r.At(ctx, q.kind(), e.Place)
			if err != nil {
				return err
			}
			return yield(whole)
		})
	}
	steps := []int64{q.In.Step}
	if q.In.Step < 0 {
		var err error
		if steps, err = r.ledger.StepsWith(ctx, q.kind()); err != nil {
			return err
		}
	}
	for _, step := range steps {
		if err := r.episodesOf(ctx, step, q, yield); err != nil {
			return err
		}
	}
	return nil
}

// episodesOf is Episodes for one step.
func (r *Run) episodesOf(ctx context.Context, step int64, q Query, yield func(Episode) error) error {
	stored, err := r.ledger.OfKind(ctx, q.kind(), step)
	if err != nil {
		return err
	}
	estimates, err := r.estimates(ctx, q.kind(), step)
	if err != nil {
		return err
	}
	for _, s := range stored {
		if !q.In.contains(s) {
			continue
		}
		e, err := episodeOf(s)
		if err != nil {
			return err
		}
		e.Estimate = estimates[e.Place]
		if !q.selects(e) {
			continue
		}
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

// estimates returns the estimates of a step's training episodes.
func (r *Run) estimates(ctx context.Context, kind string, step int64) (map[Place]*Estimate, error) {
	out := map[Place]*Estimate{}
	if kind != "" {
		return out, nil
	}
	stored, err := r.ledger.Estimates(ctx, step)
	for _, e := range stored {
		out[Place{step, e.Group, e.Episode}] = estimateOf(&e)
	}
	return out, err
}

// estimateOf returns nil for nil.
func estimateOf(e *ledger.Estimate) *Estimate {
	if e == nil {
		return nil
	}
	return &Estimate{Advantage: e.Advantage, Bonus: e.Bonus, Tokens: e.Tokens, Logprobs: e.Logprobs}
}

// ErrNone is returned if no episode is selected.
var ErrNone = errors.New("no such episode")

// Episode returns the episode at the query's place. A training episode that failed
// is found too.
func (r *Run) Episode(ctx context.Context, q Query) (Episode, error) {
	e, err := r.At(ctx, q.kind(), q.In)
	if errors.Is(err, ErrNone) && q.kind() == "" {
		q.Failed = true
		e, err = r.At(ctx, q.kind(), q.In)
	}
	if err == nil && !q.selects(e) {
		err = fmt.Errorf("%s: %w", q.In, ErrNone)
	}
	return e, err
}

// At returns the episode of a kind at a place. The kind of training episodes is
// empty.
func (r *Run) At(ctx context.Context, kind string, p Place) (Episode, error) {
	stored, err := r.ledger.At(ctx, kind, p.Step, p.Group, p.Episode)
	if err == nil && stored == nil {
		err = fmt.Errorf("%s: %w", p, ErrNone)
	}
	if err != nil {
		return Episode{}, err
	}
	e, err := episodeOf(*stored)
	if err != nil || kind != "" {
		return e, err
	}
	estimate, err := r.ledger.EstimateAt(ctx, p.Step, p.Group, p.Episode)
	e.Estimate = estimateOf(estimate)
	return e, err
}

// Best returns the selected episode with the highest return, or with the lowest one
// if worst. Of equal returns it is the newest.
func (r *Run) Best(ctx context.Context, q Query, worst bool) (Episode, error) {
	f := q.filter()
	if f.Order, f.Limit = ledger.BestFirst, 1; worst {
		f.Order = ledger.WorstFirst
	}
	found, err := r.rows(ctx, f)
	if err != nil {
		return Episode{}, err
	}
	if len(found) == 0 {
		return Episode{}, ErrNone
	}
	return r.At(ctx, f.Kind, found[0].Place)
}
