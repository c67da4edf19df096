package memory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// sameVector is the smallest cosine of two vectors that an embedder gives for one text
// at different times. Servers round differently from time to time.
const sameVector = 0.99

// CheckEmbedder embeds a state of the bank again and returns an error if its vector is
// another one: a server may have another model under the same name, and vectors of
// different models cannot be compared.
func (b *Bank) CheckEmbedder(ctx context.Context) error {
	var text string
	var blob []byte
	err := b.db.QueryRowContext(ctx, `SELECT text, vector FROM memory_states ORDER BY id DESC LIMIT 1`).Scan(&text, &blob)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a state of the memory: %w", err)
	}
	vectors, err := Embed(ctx, b.config.Embedder, text)
	if err != nil {
		return fmt.Errorf("check the embedder: %w", err)
	}
	stored, now := appendVector(nil, blob), vectors[0]
	if len(stored) == len(now) && (zero(stored) && zero(now) || dot(stored, now) >= sameVector) {
		return nil
	}
	return fmt.Errorf("embedder %s gives another vector for a text than the one in the bank: its model has changed\n"+
		"  hint: restore the model; or export the tips with empo2 memory export, and import them with empo2 memory import "+
		"into a new run, which embeds them again", b.config.Embedder.Name())
}

func zero(v []float32) bool { return dot(v, v) == 0 }

func dot(a, b []float32) (sum float64) {
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}
