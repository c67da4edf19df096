package sampler

// Keys of [Capabilities.Hints] for the ways in which a server's log-probs can
// differ from the trainer's. The hint names the settings of this server.
const (
	HintStaleCache   = "stale_cache"   // a few tokens differ by much
	HintLowPrecision = "low_precision" // all tokens differ slightly
)

const (
	// LargeMismatch is a difference in nats that rounding cannot explain.
	LargeMismatch = 0.5
	// otherModel is a mean difference in nats as between two models.
	otherModel = 0.3
)

// MismatchCause says what a difference between the log-probs of server and
// trainer looks like: mean and largest |server − trainer| in nats. It adds the
// server's own hint, if there is one.
func MismatchCause(mean, largest float64, hints map[string]string) string {
	cause, key := "all tokens differ slightly: low precision of the server or of the trainer", HintLowPrecision
	switch {
	case mean > otherModel:
		return "as large as between two models: another base model, a wrong adapter, or an adapter that is not applied"
	case largest > 100*mean && largest > LargeMismatch:
		cause, key = "a few tokens differ by much: a stale prompt cache, or a replica with old weights", HintStaleCache
	}
	if hint := hints[key]; hint != "" {
		cause += "\n  hint: " + hint
	}
	return cause
}
