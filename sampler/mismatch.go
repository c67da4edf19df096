package sampler

// Keys of [Capabilities.Hints] for two kinds of difference between the log-probs of server and trainer. The hints name
// the settings of this server.
const (
	HintStaleCache   = "stale_cache"   // a few tokens differ by a lot
	HintLowPrecision = "low_precision" // all tokens differ slightly
)

const (
	// LargeMismatch is a difference in nats that rounding cannot explain.
	LargeMismatch = 0.5
	// otherModel is a mean difference in nats that is typical of two different models.
	otherModel = 0.3
)

// MismatchCause returns the likely cause of a difference between the log-probs of server and trainer. mean and largest
// are |server − trainer| in nats. It adds the server's hint, if there is one.
func MismatchCause(mean, largest float64, c Capabilities) string {
	cause, key := "all tokens differ slightly: low precision of the server or of the trainer", HintLowPrecision
	switch {
	case mean > otherModel:
		return "the difference is typical of two different models: another base model, a wrong adapter, or an adapter " +
			"that is not applied"
	case largest > 100*mean && largest > LargeMismatch:
		cause, key = "a few tokens differ by a lot: a stale prompt cache, or a replica with old weights", HintStaleCache
	case c.Rounding != "":
		return c.Rounding
	}
	if hint := c.Hints[key]; hint != "" {
		cause += "\n  hint: " + hint
	}
	return cause
}
