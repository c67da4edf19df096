package orchestrator

import (
	"context"
	"fmt"
	"math"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
)

// largeDifference is a difference of log-probs in nats that rounding cannot
// explain.
const largeDifference = 0.5

// large reports whether server and trainer differ too much, on average or by
// far at single tokens.
func (m Mismatch) large(tolerance float64) bool {
	return m.Mean > tolerance || m.Max > math.Max(largeDifference, 100*tolerance)
}

// MismatchCause is the likely cause of a large mismatch.
type MismatchCause string

const (
	// OtherModel: the difference is as large as between two models.
	OtherModel MismatchCause = "other model"
	// StaleCache: few tokens differ by far.
	StaleCache MismatchCause = "stale cache"
	// LowPrecision: all tokens differ slightly.
	LowPrecision MismatchCause = "low precision"
)

// cause guesses the cause from the pattern of the differences.
func (m Mismatch) cause() MismatchCause {
	switch {
	case m.Mean > 0.3:
		return OtherModel
	case m.Max > 100*m.Mean && m.Max > largeDifference:
		return StaleCache
	default:
		return LowPrecision
	}
}

// describe explains a cause in a sentence.
func (c MismatchCause) describe() string {
	switch c {
	case OtherModel:
		return "as large as between two models: another base model, a wrong adapter, or one that is not applied"
	case StaleCache:
		return "few tokens differ by far: a stale prompt cache, or one replica with old weights"
	default:
		return "all tokens differ slightly: the server or the trainer (trainer.dtype) computes with low precision"
	}
}

// mismatchReporter warns when server and trainer disagree.
type mismatchReporter struct {
	tolerance float64
	advice    func(MismatchCause) string // nil: none
	ledger    *ledger.Ledger
	log       zerolog.Logger
}

// report records a large mismatch as an event and logs it unless that was done
// before. It returns whether the mismatch is reported now. A step without an
// update changes nothing.
func (r mismatchReporter) report(ctx context.Context, u *Update, reported bool) (bool, error) {
	if u == nil {
		return reported, nil
	}
	if !u.Mismatch.large(r.tolerance) {
		return false, nil
	}
	m, cause := u.Mismatch, u.Mismatch.cause()
	text := fmt.Sprintf("the server's log-probs differ from the trainer's by %.2g nats on average and by up to %.2g "+
		"(KL %.2g, effective sample size %.0f %%): %s", m.Mean, m.Max, m.KL, 100*m.ESS, cause.describe())
	if r.advice != nil {
		if advice := r.advice(cause); advice != "" {
			text += "\n  hint: " + advice
		}
	}
	if !reported { // the lines of later steps show the difference
		correction := "the rows are not corrected"
		if u.Corrected {
			correction = "the rows are corrected"
		}
		r.log.Warn().Int64("step", int64(u.Version)).Int("version", u.Version).Msg(correction + ": " + text)
	}
	return true, r.ledger.Event(ctx, int64(u.Version), "mismatch", text)
}
