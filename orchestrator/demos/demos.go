// Package demos makes, writes and reads demonstrations: conversations in which
// the policy acts as it should. The package warmstart trains on them.
//
// A file of demonstrations has one JSON object on each line, in the
// conversational form that TRL and other fine-tuning programs use:
//
//	{"messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"},
//	              {"role": "assistant", "content": "…"}]}
//
// Start with [Demonstration]. [Read] reads a file and checks it. [Lessons] makes
// demonstrations from a teacher. The prompts of an episode are rendered by package
// prompt, so that they are exactly what the policy sees in training.
package demos

// Demonstration is one conversation.
type Demonstration struct {
	Messages []Message `json:"messages"`
	// Source says where the conversation comes from. It is not trained on.
	Source *Source `json:"source,omitempty"`
	// Line is the number of the line in the file that was read, from 1.
	Line int `json:"-"`
}

// Message is one message of a conversation.
type Message struct {
	Role    string `json:"role"` // system, user or assistant
	Content string `json:"content"`
	// Weight 0 keeps a message of the assistant from being trained. Nil is 1.
	Weight *int `json:"weight,omitempty"`
}

// Trained reports whether the loss counts the message.
func (m Message) Trained() bool { return m.Role == "assistant" && (m.Weight == nil || *m.Weight != 0) }

// Source says where a demonstration comes from.
type Source struct {
	Env     string  `json:"env"`
	Task    string  `json:"task"`
	Score   float64 `json:"score"`
	Success bool    `json:"success"`
	// Tips says that the prompts show tips.
	Tips bool `json:"tips,omitempty"`
	// Reflection says that the last message is a tip for later episodes.
	Reflection bool `json:"reflection,omitempty"`
}
