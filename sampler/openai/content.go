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
	var parts []part
	if json.Unmarshal(raw, &parts) != nil {
		parts = make([]part, 1)
		if json.Unmarshal(raw, &parts[0]) != nil {
			return err
		}
	}
	var all strings.Builder
	for _, p := range parts {
		if p.Type == "" || p.Type == "text" || p.Type == "output_text" {
			all.WriteString(p.Text)
		}
	}
	*c = content(all.String())
	return nil
}

// part is a part of a content: a text, or an object with a type.
type part struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// UnmarshalJSON reads both forms.
func (p *part) UnmarshalJSON(raw []byte) error {
	if json.Unmarshal(raw, &p.Text) == nil {
		return nil
	}
	type object part
	return json.Unmarshal(raw, (*object)(p))
}
