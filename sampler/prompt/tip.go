package prompt

// Tip is a sentence of the memory as a prompt shows it.
type Tip struct {
	ID   int64  `json:"id"`
	Text string `json:"text"`
}
