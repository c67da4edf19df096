package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

const (
	// recentSteps are kept to judge the next one.
	recentSteps = 20
	// fewestNorms are the steps with a gradient that a judgement needs.
	fewestNorms = 5
)

// ErrDiverges is wrapped by the error that ends a run whose training diverges.
var ErrDiverges = errors.New("the training diverges")

// divergenceGuard looks for signs that the training diverges. It warns, and ends
// the run after several steps in a row with such signs.
type divergenceGuard struct {
	config config.Divergence
	ledger *ledger.Ledger
	log    zerolog.Logger
}

// run judges an update before it is published. It returns the signs.
func (g divergenceGuard) run(ctx context.Context, u *Update, before state) ([]string, error) {
	if u == nil {
		return nil, nil
	}
	signs := g.signs(*u, before.recent)
	if len(signs) == 0 {
		return nil, nil
	}
	text := strings.Join(signs, "; ")
	g.log.Warn().Int64("step", int64(u.Version)).Msg("the training may diverge: " + text)
	if err := g.ledger.Event(ctx, int64(u.Version), "divergence", text); err != nil {
		return nil, err
	}
	streak := before.diverging() + 1
	if g.config.Patience == 0 || streak < g.config.Patience {
		return signs, nil
	}
	return nil, fmt.Errorf("%w, for %d steps in a row: %s; the last good version is %d\n"+
		"  hint: the step is not committed; continue with a lower optimizer.learning_rate or "+
		"optimizer.grad_clip_norm, a higher loss.kl, or other values of [divergence]; "+
		"empo2 run --from-step N returns to an older version",
		ErrDiverges, streak, text, before.lastGood())
}

// signs returns what is wrong with an update, in words.
func (g divergenceGuard) signs(u Update, recent []StepMetrics) []string {
	var signs []string
	usual := medianNorm(recent)
	if limit := g.config.GradNorm; limit > 0 && usual > 0 && u.GradNorm > limit*usual {
		signs = append(signs, fmt.Sprintf("the norm of the gradient is %.3g, usually %.3g (divergence.grad_norm)",
			u.GradNorm, usual))
	}
	kl := math.Max(math.Abs(u.Stats.ApproxKL()), u.Stats.KLBase())
	if limit := g.config.KL; limit > 0 && kl > limit {
		signs = append(signs, fmt.Sprintf("the KL divergence is %.3g nats per token (divergence.kl)", kl))
	}
	entropy, known := u.Stats.Entropy(), u.Stats.Tokens() > 0 && u.Stats.KnowsEntropy()
	if limit := g.config.Entropy; limit > 0 && known && entropy < limit {
		signs = append(signs, fmt.Sprintf("the entropy is %.3g nats per token (divergence.entropy)", entropy))
	}
	return signs
}

// medianNorm is the median norm of the gradient; 0 if few steps have one.
func medianNorm(recent []StepMetrics) float64 {
	var norms []float64
	for _, m := range recent {
		if m.GradNorm > 0 {
			norms = append(norms, m.GradNorm)
		}
	}
	if len(norms) < fewestNorms {
		return 0
	}
	slices.Sort(norms)
	return norms[len(norms)/2]
}

// diverging counts the newest trained steps in a row that had a sign of
// divergence. Steps without an update do not count.
func (s state) diverging() int {
	n := 0
	for i := len(s.recent) - 1; i >= 0; i-- {
		switch m := s.recent[i]; {
		case len(m.Diverging) > 0:
			n++
		case m.Rows > 0:
			return n
		}
	}
	return n
}

// lastGood is the newest version before the steps with a sign of divergence.
func (s state) lastGood() int {
	for i := len(s.recent) - 1; i >= 0; i-- {
		if m := s.recent[i]; len(m.Diverging) == 0 {
			return m.Version
		}
	}
	return 0
}

// with returns the newest steps, one more included.
func (s state) with(m StepMetrics) []StepMetrics {
	recent := append(slices.Clone(s.recent), m)
	return recent[max(0, len(recent)-recentSteps):]
}
