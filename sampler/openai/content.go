package openai

import (
	"encoding/json"
	"strings"
)

// content is the text of an answer. Servers send a string, null, or a list of parts, of which some are thoughts.
type content string

// UnmarshalJSON joins the parts that are text.
func (c *content) UnmarshalJSON(raw []byte) error {
	var text *string // nil: null
	err := json.Unmarshal(raw, &text)
	if err == nil {
		*c = ""
		if text != nil {
			*c = content(*text)
		}
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return err
	}
	var all strings.Builder
	for _, part := range parts {
		if part.Type == "" || part.Type == "text" || part.Type == "output_text" {
			all.WriteString(part.Text)
		}
	}
	*c = content(all.String())
	return nil
}
