package prompt

// Tip is one sentence of advice from the memory, as a prompt shows it.
type Tip struct {
	ID   int64  `json:"id"` // in the memory
	Text string `json:"text"`
}
