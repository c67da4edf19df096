package ledger

import (
	"context"
	"errors"
	"fmt"
)

// SavePrompt stores the text of a prompt template under its checksum. Saving it
// again changes nothing.
func (l *Ledger) SavePrompt(ctx context.Context, sha256, text string) error {
	err := l.add(ctx, "meta", "ON CONFLICT(key) DO NOTHING", "prompt "+sha256, text)
	if err != nil {
		return fmt.Errorf("save the prompt template: %w", explain(err))
	}
	return nil
}

// Prompt returns the prompt template with a checksum. An unknown checksum is an
// error.
func (l *Ledger) Prompt(ctx context.Context, sha256 string) (string, error) {
	text, err := l.meta(ctx, "prompt "+sha256)
	if err == nil && text == "" {
		err = errors.New("it was never saved")
	}
	if err != nil {
		return "", fmt.Errorf("prompt template %.12s: %w", sha256, err)
	}
	return text, nil
}
