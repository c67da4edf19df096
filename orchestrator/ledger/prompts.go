package ledger

import (
	"context"
	"fmt"
)

// SavePrompt stores the text of a prompt template under its checksum. Saving it
// again changes nothing.
func (l *Ledger) SavePrompt(ctx context.Context, sha256, text string) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO meta(key, value) VALUES(?, ?)
		ON CONFLICT(key) DO NOTHING`, "prompt "+sha256, text)
	if err != nil {
		return fmt.Errorf("save the prompt template: %w", explain(err))
	}
	return nil
}

// Prompt returns the prompt template with a checksum. An unknown checksum is an
// error.
func (l *Ledger) Prompt(ctx context.Context, sha256 string) (string, error) {
	var text string
	err := l.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", "prompt "+sha256).Scan(&text)
	if err != nil {
		return "", fmt.Errorf("prompt template %.12s: %w", sha256, explain(err))
	}
	return text, nil
}
