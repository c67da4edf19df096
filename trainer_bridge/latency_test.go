package trainerbridge

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkUpdate is a small update of the vault's policy as the loop asks for it: forward_backward
// of four rows of 32 tokens, then optim_step.
func BenchmarkUpdate(b *testing.B) {
	_, c := startReal(b, realTrainer(b))
	tokens := make([]int32, 32)
	for i := range tokens {
		tokens[i] = int32(10 + i)
	}
	row := newRow(tokens...)
	rows, loss := []Row{row, row, row, row}, Loss{Name: "cross_entropy"}
	for b.Loop() {
		if _, _, err := c.ForwardBackward(b.Context(), rows, loss); err != nil {
			b.Fatal(err)
		}
		if _, err := c.OptimStep(b.Context(), adam); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExport writes the adapter for the server in every format of the trainer.
func BenchmarkExport(b *testing.B) {
	_, c := startReal(b, realTrainer(b))
	stamp := time.Now().UnixNano()
	for i := 0; b.Loop(); i++ {
		if _, err := c.SaveForSampler(b.Context(), fmt.Sprintf("v%d-%06d", stamp, i)); err != nil {
			b.Fatal(err)
		}
	}
}
