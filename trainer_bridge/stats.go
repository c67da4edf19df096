package trainerbridge

import (
	"maps"
	"math"
	"slices"
	"strings"
)

// Stats are the trainer's metrics. The suffix of a key says how values of
// several requests are combined: "loss:sum", "ratio_max:max", "grad_norm:mean".
// The accessors return 0 if the trainer did not report the value.
type Stats map[string]float64

// Loss is the sum of the loss over all trained tokens.
func (s Stats) Loss() float64 { return s["loss:sum"] }

// Tokens is the number of trained tokens, including those below the log-prob
// floor.
func (s Stats) Tokens() float64 { return s["tokens:sum"] }

// MaskedShare is the share of trained tokens below the log-prob floor.
func (s Stats) MaskedShare() float64 { return ratio(s["masked:sum"], s.Tokens()) }

// ClippedShare is the share of trained tokens whose clipped branch is active.
func (s Stats) ClippedShare() float64 { return ratio(s["clipped:sum"], s.Tokens()) }

// MeanRatio is the mean importance ratio over trained tokens that are not
// masked.
func (s Stats) MeanRatio() float64 {
	return ratio(s["ratio:sum"], s.Tokens()-s["masked:sum"])
}

// MaxRatio is the largest importance ratio of a trained token.
func (s Stats) MaxRatio() float64 { return s["ratio_max:max"] }

// KLBase is the mean KL(π_θ‖π_base) in nats over the tokens that have a KL
// coefficient.
func (s Stats) KLBase() float64 { return ratio(s["kl_base:sum"], s["kl_tokens:sum"]) }

// ApproxKL is the mean of log π_old − log π_θ in nats over trained tokens.
func (s Stats) ApproxKL() float64 { return ratio(s["approx_kl:sum"], s.Tokens()) }

// Entropy is the mean entropy in nats over trained tokens.
func (s Stats) Entropy() float64 { return ratio(s["entropy:sum"], s.Tokens()) }

// RowTokens is the number of tokens of all rows, trained or not.
func (s Stats) RowTokens() float64 { return s["row_tokens:sum"] }

// Seconds is the time that the trainer needed for its passes.
func (s Stats) Seconds() float64 { return s[secondsKey] }

const secondsKey = "seconds:sum"

// TokensPerSecond is the speed of the trainer's passes in tokens of rows.
func (s Stats) TokensPerSecond() float64 { return ratio(s.RowTokens(), s.Seconds()) }

// PaddingShare is the share of padding among the tokens that the trainer
// computed.
func (s Stats) PaddingShare() float64 {
	return ratio(s["padding_tokens:sum"], s.RowTokens()+s["padding_tokens:sum"])
}

// PeakMemory is the most memory that the trainer used in a pass, in bytes: of
// the GPU, or of the whole process on a CPU.
func (s Stats) PeakMemory() int64 { return int64(s["peak_memory_bytes:max"]) }

// MFU is the model FLOP utilisation of a GPU, from 0 to 1. It is 0 on a CPU and
// on a GPU of unknown speed.
func (s Stats) MFU() float64 { return s["mfu:mean"] }

// MicroBatches is the number of micro-batches.
func (s Stats) MicroBatches() int { return int(s["micro_batches:sum"]) }

// Checkpointed is the number of micro-batches whose layers were checkpointed.
func (s Stats) Checkpointed() int { return int(s["checkpointed_micro_batches:sum"]) }

// MicroBatchTokens is the trainer's limit of tokens in a micro-batch after the
// passes.
func (s Stats) MicroBatchTokens() int { return int(s["micro_batch_tokens:min"]) }

// OutOfMemory is how often the trainer halved its micro-batches because memory
// ran out.
func (s Stats) OutOfMemory() int { return int(s["oom_retries:sum"]) }

// GradNorm is the gradient's norm before clipping, of an optimizer step.
func (s Stats) GradNorm() float64 { return s[gradNorm] }

const gradNorm = "grad_norm:mean"

// KnowsGradNorm reports whether the trainer reported the norm of the gradient.
func (s Stats) KnowsGradNorm() bool { return s.has(gradNorm) }

// KnowsEntropy reports whether the trainer reported the entropy.
func (s Stats) KnowsEntropy() bool { return s.has("entropy:sum") }

func (s Stats) has(key string) bool {
	_, ok := s[key]
	return ok
}

// TakeStep adds the norm of the optimizer step that follows the passes of s, and the seconds of passes in it.
func (s Stats) TakeStep(step Stats) {
	if s == nil {
		return
	}
	if norm, ok := step[gradNorm]; ok {
		s[gradNorm] = norm
	}
	if seconds, ok := step[secondsKey]; ok {
		s[secondsKey] += seconds
	}
}

func ratio(a, n float64) float64 {
	if n == 0 {
		return 0
	}
	return a / n
}

// rates are the means per time.
var rates = []string{"mfu:mean", "tokens_per_second:mean"}

// seconds are the times of the parts; nil if the trainer does not report them.
func seconds(parts []Stats) []float64 {
	out := make([]float64, len(parts))
	for i, p := range parts {
		if out[i] = p.Seconds(); !(out[i] > 0) {
			return nil
		}
	}
	return out
}

// MergeStats combines the metrics of several requests. The suffix of a key says
// how: sum, min, max or mean. A mean is weighted by weights, for example the
// numbers of rows; nil means equal weights. Rates are weighted by the seconds of
// the parts, if all of them report these. Keys with another suffix are
// dropped. A part without a key does not count for that key.
func MergeStats(parts []Stats, weights []float64) Stats {
	merged := Stats{}
	total := map[string]float64{}
	times := seconds(parts)
	for i, part := range parts {
		for _, key := range slices.Sorted(maps.Keys(part)) {
			w, v := 1.0, part[key]
			switch {
			case times != nil && slices.Contains(rates, key):
				w = times[i]
			case weights != nil:
				w = weights[i]
			}
			_, suffix, _ := strings.Cut(key, ":")
			old, seen := merged[key]
			switch suffix {
			case "sum":
				merged[key] = old + v
			case "mean":
				merged[key] = old + w*v
				total[key] += w
			case "min":
				if !seen || v < old || math.IsNaN(v) {
					merged[key] = v
				}
			case "max":
				if !seen || v > old || math.IsNaN(v) {
					merged[key] = v
				}
			}
		}
	}
	for key, w := range total {
		merged[key] = ratio(merged[key], w)
	}
	return merged
}

func (m metrics) stats() Stats {
	s := make(Stats, len(m))
	for key, v := range m {
		s[key] = math.NaN()
		if v != nil {
			s[key] = *v
		}
	}
	return s
}
