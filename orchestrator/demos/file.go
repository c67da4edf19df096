package demos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/sampler/chat"
)

// Write writes demonstrations to a file, one line each. The file appears only when
// it is complete. Only its owner can read it.
func Write(path string, all []Demonstration) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriter(f)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for _, d := range all {
		if err := encoder.Encode(d); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// Read reads a file and checks every line. Empty lines are skipped.
func Read(path string) ([]Demonstration, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: no such file\n  hint: empo2 demos --out %s writes one", path, safetext.Argument(path))
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file\n  hint: %s", path, form)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w\n  hint: check its owner and permissions", err)
	}
	defer f.Close()
	all, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}

// Parse reads demonstrations like [Read].
func Parse(from io.Reader) ([]Demonstration, error) {
	var all []Demonstration
	in := bufio.NewScanner(from)
	in.Buffer(nil, maxLine)
	n := 1
	for ; in.Scan(); n++ {
		line := in.Bytes()
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff")) // a byte-order mark
		}
		if text := bytes.TrimSpace(line); len(text) > 0 {
			d, err := parse(text)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			d.Line = n
			all = append(all, d)
		}
	}
	switch err := in.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d is longer than 16 MB\n  hint: %s", n, form)
	case err != nil:
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("it has no demonstration\n  hint: %s", form)
	}
	return all, nil
}

// maxLine is the longest line in bytes.
const maxLine = 16 << 20

// form describes a line in hints.
const form = `each line is one JSON object, ` +
	`{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`

// wireLine is a line of the file.
type wireLine struct {
	Messages   json.RawMessage `json:"messages"`
	Prompt     json.RawMessage `json:"prompt"`
	Completion json.RawMessage `json:"completion"`
	Tools      json.RawMessage `json:"tools"`
	Source     *Source         `json:"source"`
}

type wireMessage struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	Weight    *float64        `json:"weight"`
	ToolCalls json.RawMessage `json:"tool_calls"`
}

func parse(text []byte) (Demonstration, error) {
	var line wireLine
	if !utf8.Valid(text) {
		return Demonstration{}, errors.New("it is not UTF-8\n  hint: save the file as UTF-8")
	}
	if err := json.Unmarshal(text, &line); err != nil {
		return Demonstration{}, fmt.Errorf("no valid JSON: %w\n  hint: %s", safetext.JSONError(err), form)
	}
	if given(line.Tools) {
		return Demonstration{}, errors.New("tools are not supported\n  hint: write them into the system message")
	}
	d := Demonstration{Source: line.Source}
	var err error
	switch {
	case given(line.Messages) && !given(line.Prompt) && !given(line.Completion):
		d.Messages, err = messages("messages", line.Messages)
	case given(line.Prompt) && given(line.Completion) && !given(line.Messages):
		if d.Messages, err = messages("prompt", line.Prompt); err != nil {
			break
		}
		d.untrain() // the loss counts the completion only, as in TRL
		var completion []Message
		completion, err = messages("completion", line.Completion)
		d.Messages = append(d.Messages, completion...)
	default:
		err = fmt.Errorf("it has neither messages alone nor prompt with completion\n  hint: %s", form)
	}
	if err == nil {
		err = d.check()
	}
	return d, err
}

func given(value json.RawMessage) bool { return len(value) > 0 && string(value) != "null" }

// messages parses a list of messages. key is its name in errors.
func messages(key string, text json.RawMessage) ([]Message, error) {
	var list []wireMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s is no list of messages: %w\n  hint: %s", key, safetext.JSONError(err), form)
	}
	out := make([]Message, len(list))
	for i, m := range list {
		fail := func(format string, args ...any) ([]Message, error) {
			return nil, fmt.Errorf("message %d of %s: %w", i+1, key, fmt.Errorf(format, args...))
		}
		content, err := plainText(m.Content)
		switch {
		case err != nil:
			return fail("%w", err)
		case given(m.ToolCalls):
			return fail("tool calls are not supported\n  hint: write the call as text")
		case m.Weight != nil && *m.Weight != 0 && *m.Weight != 1:
			return fail("weight is %v\n  hint: 0 (not trained) or 1", *m.Weight)
		}
		out[i] = Message{Role: m.Role, Content: content}
		if m.Weight != nil && m.Role == chat.RoleAssistant {
			weight := int(*m.Weight)
			out[i].Weight = &weight
		}
	}
	return out, nil
}

// plainText is the text of a content: a string, or a list of text parts.
func plainText(content json.RawMessage) (string, error) {
	var text string
	if json.Unmarshal(content, &text) == nil && given(content) {
		return text, nil
	}
	var parts []struct{ Type, Text string }
	if !given(content) || json.Unmarshal(content, &parts) != nil {
		return "", errors.New("content is no text\n" +
			"  hint: a string, or a list of {\"type\": \"text\", \"text\": \"…\"}")
	}
	var b strings.Builder
	for _, part := range parts {
		if part.Type != "text" {
			return "", fmt.Errorf("content has a part of type %q, but only text can be trained\n"+
				"  hint: remove the part, or describe it in words", part.Type)
		}
		b.WriteString(part.Text)
	}
	return b.String(), nil
}

// check checks roles and texts: at most one system message at the start, then user
// and assistant in turn, and the assistant last.
func (d Demonstration) check() error {
	if len(d.Messages) == 0 {
		return fmt.Errorf("it has no message\n  hint: %s", form)
	}
	want := chat.RoleUser
	for i, m := range d.Messages {
		place := fmt.Sprintf("message %d", i+1)
		switch m.Role {
		case chat.RoleSystem, chat.RoleUser, chat.RoleAssistant:
		default:
			return fmt.Errorf("%s has the role %q\n  hint: the roles are system, user and assistant", place, m.Role)
		}
		if i == 0 && m.Role == chat.RoleSystem {
			continue
		}
		if m.Role != want {
			return fmt.Errorf("%s has the role %s, want %s\n"+
				"  hint: an optional system message, then user and assistant in turn", place, m.Role, want)
		}
		if m.Role == chat.RoleAssistant && strings.TrimSpace(m.Content) == "" {
			return fmt.Errorf("%s of the assistant has no text\n"+
				"  hint: remove the conversation, or give the text", place)
		}
		want = map[string]string{chat.RoleUser: chat.RoleAssistant, chat.RoleAssistant: chat.RoleUser}[m.Role]
	}
	return d.checkTrained()
}

// checkTrained checks that the loss counts something.
func (d Demonstration) checkTrained() error {
	last := d.Messages[len(d.Messages)-1]
	if last.Role != chat.RoleAssistant {
		return fmt.Errorf("the last message has the role %s, want assistant\n"+
			"  hint: remove what follows the assistant's last message", last.Role)
	}
	for _, m := range d.Messages {
		if m.Trained() {
			return nil
		}
	}
	return errors.New("every message of the assistant has weight 0\n  hint: give one of them weight 1, or none")
}
