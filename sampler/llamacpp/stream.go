package llamacpp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// stream sends a request for a completion and calls written with the text so far, after
// each part of the answer. It returns the parts as one answer. The server sends no part
// for a token that ends within a UTF-8 character, so that the answer may have fewer
// Tokens than Predicted.
func (c *client) stream(ctx context.Context, q completionRequest, written func(string)) (all answer, err error) {
	if c.err != nil {
		return all, c.err
	}
	q.Stream = true
	request := jsonhttp.Request{Path: "/completion", Body: q}
	err = c.web.Stream(ctx, request, func(_ http.Header, body io.Reader) (err error) {
		all, err = readStream(body, written)
		return err
	})
	return all, explained(err)
}

// maxPart bounds a part of a streamed answer in bytes.
const maxPart = 1 << 20

// readStream reads server-sent events to the last part of an answer.
func readStream(body io.Reader, written func(string)) (all answer, err error) {
	text := ""
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxPart)
	for lines.Scan() {
		data, isData := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !isData {
			continue
		}
		var part answer
		if err := json.Unmarshal(data, &part); err != nil {
			return all, badPart(err.Error())
		}
		if present(part.Error) {
			all.Error = part.Error
			return all, nil
		}
		if part.Content != nil && *part.Content != "" {
			text += *part.Content
			written(text)
		}
		tokens, entries := append(all.Tokens, part.Tokens...), append(all.Entries, part.Entries...)
		all = part
		all.Tokens, all.Entries, all.Content = tokens, entries, &text
		if part.StopType != "" {
			return all, nil
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return all, err
	}
	return all, badPart("it breaks off")
}

// badPart is the error of a stream that does not follow the protocol.
func badPart(why string) error {
	return &jsonhttp.Error{Kind: jsonhttp.Malformed, Status: http.StatusOK, Truncated: true,
		Message: fmt.Sprintf("the streamed answer is incomplete: %.200s", why)}
}
