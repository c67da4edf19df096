package page

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/view"
)

// An answerError is an error with the status of its answer.
type answerError struct {
	status    int
	msg, hint string
}

func (e *answerError) Error() string { return e.msg }

var (
	errNotFound = &answerError{http.StatusNotFound, "there is no such address", ""}
	errClosed   = &answerError{http.StatusServiceUnavailable, "the page is closed", ""}
)

// problem is the JSON of an error.
type problem struct {
	Error string `json:"error"`
	Hint  string `json:"hint"`
}

func writeError(w http.ResponseWriter, err error) {
	text, hint, _ := strings.Cut(err.Error(), "\n  hint: ")
	status := http.StatusInternalServerError
	var known *answerError
	switch {
	case errors.As(err, &known):
		status, text, hint = known.status, known.msg, known.hint
	case errors.Is(err, view.ErrNone), errors.Is(err, fs.ErrNotExist):
		status = http.StatusNotFound
	case errors.Is(err, ledger.ErrInUse):
		status = http.StatusConflict
	}
	body, err := json.Marshal(problem{text, hint})
	if err != nil {
		body = []byte(`{"error":"the error cannot be shown","hint":""}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // nobody is told if the client has gone
}

// badRequest is the error of a request that makes no sense.
func badRequest(format string, args ...any) error {
	return &answerError{http.StatusBadRequest, fmt.Sprintf(format, args...), ""}
}

// quoted is a text of a request for an error, shortened.
func quoted(text string) string { return fmt.Sprintf("%.80q", text) }

// answerTimeout bounds the work for one answer.
const answerTimeout = 30 * time.Second

// answer serves an address whose answer is JSON. A browser that has the same answer
// already is told so.
func (p *Page) answer(pattern string, f func(ctx context.Context, r *http.Request) (any, error)) {
	p.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeoutCause(r.Context(), answerTimeout, errors.New("the answer took too long"))
		defer cancel()
		value, err := f(ctx, r)
		if err != nil {
			writeError(w, err)
			return
		}
		body, done := value.(madeJSON)
		if !done {
			if body, err = json.Marshal(value); err != nil {
				writeError(w, fmt.Errorf("encode the answer: %w", err))
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		writeBody(w, r, body)
	})
}

// madeJSON is an answer that is JSON already.
type madeJSON []byte

// writeBody sends a body, unless the browser has it.
func writeBody(w http.ResponseWriter, r *http.Request, body []byte) {
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(body) // nobody is told if the client has gone
}

// number is a value of an answer; NaN and infinities, which JSON lacks, are null.
type number float64

// unknown is null.
var unknown = number(math.NaN())

// MarshalJSON implements [json.Marshaler].
func (n number) MarshalJSON() ([]byte, error) {
	if v := float64(n); !math.IsNaN(v) && !math.IsInf(v, 0) {
		return json.Marshal(v)
	}
	return []byte("null"), nil
}
