package prompt

// Tip is one sentence of advice from the memory, as a prompt shows it.
type Tip struct {
	ID   int64  `json:"id"` // in the memory
	Text string `json:"text"`
	// Author is the episode that wrote it, as STEP/GROUP/EPISODE. An imported tip names
	// an episode of another run. Empty: unknown.
	Author string `json:"author,omitempty"`
}
