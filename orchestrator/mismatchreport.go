package orchestrator

import (
	"context"
	"fmt"
	"math"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
)

// large reports whether server and trainer differ too much, on average or by
// far at single tokens.
func (m Mismatch) large(tolerance float64) bool {
	return m.Mean > tolerance || m.Max > math.Max(sampler.LargeMismatch, 100*tolerance)
}

// mismatchReporter warns when server and trainer disagree.
type mismatchReporter struct {
	tolerance float64
	can       sampler.Capabilities // of the server
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
	m := u.Mismatch
	text := fmt.Sprintf("the server's log-probs differ from the trainer's by %.2g nats on average and by up to %.2g "+
		"(KL %.2g, effective sample size %.0f %%): %s",
		m.Mean, m.Max, m.KL, 100*m.ESS, sampler.MismatchCause(m.Mean, m.Max, r.can))
	if !reported { // the lines of later steps show the difference
		correction := "the rows are not corrected"
		if u.Corrected {
			correction = "the rows are corrected"
		}
		r.log.Warn().Int64("step", int64(u.Version)).Int("version", u.Version).Msg(correction + ": " + text)
	}
	return true, r.ledger.Event(ctx, int64(u.Version), "mismatch", text)
}
