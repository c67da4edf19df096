package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/view"
)

type tipsAnswer struct {
	Tips []view.Tip `json:"tips"`
	// Total is the number of tips of the run.
	Total int `json:"total"`
}

const (
	usualTips  = 200
	maxTips    = 1000
	maxTipText = 20_000
)

func answerTips(ctx context.Context, o *openRun, r *http.Request) (any, error) {
	q := r.URL.Query()
	limit := usualTips
	if n := q.Get("limit"); n != "" {
		var err error
		if limit, err = strconv.Atoi(n); err != nil || limit < 1 || limit > maxTips {
			return nil, badRequest("limit: %s is not a number of 1 to %d", quoted(n), maxTips)
		}
	}
	return o.tips(ctx, view.TipQuery{Task: q.Get("task"), Text: q.Get("text"), Limit: limit,
		ByDifference: q.Get("order") == "difference"})
}

func (o *openRun) tips(ctx context.Context, q view.TipQuery) (*tipsAnswer, error) {
	found, all, err := o.Tips(ctx, q)
	if err != nil {
		return nil, err
	}
	if found == nil {
		found = []view.Tip{}
	}
	out := tipsAnswer{Tips: found, Total: all}
	for i, t := range found {
		t.Text, t.Scope = shorten(t.Text, maxTipText), shorten(t.Scope, maxName)
		out.Tips[i] = t
	}
	return &out, nil
}

// Recalled is a tip that the memory recalls for a state.
type Recalled struct {
	Text       string  `json:"text"`
	Scope      string  `json:"scope"`
	Similarity float64 `json:"similarity"` // of the most similar state that it is stored with
	Score      float64 `json:"score"`
}

type recallAnswer struct {
	Tips []Recalled `json:"tips"`
}

// maxState is the largest text to recall tips for.
const maxState = 20_000

func (p *Page) answerRecall(ctx context.Context, o *openRun, r *http.Request) (any, error) {
	text := r.URL.Query().Get("text")
	switch {
	case p.options.Recall == nil:
		return nil, &answerError{http.StatusNotImplemented, "the memory cannot be asked here",
			"empo2 tips RUN --recall TEXT asks it"}
	case text == "":
		return nil, badRequest("text: it is empty")
	case len(text) > maxState:
		return nil, badRequest("text: it has more than %d bytes", maxState)
	}
	tips, err := p.options.Recall(ctx, o.Run, r.URL.Query().Get("task"), text)
	if err != nil {
		return nil, err
	}
	if tips == nil {
		tips = []Recalled{}
	}
	return recallAnswer{tips}, nil
}

// edits are the changes of tips that the page may ask for.
var edits = []string{"pin", "unpin", "remove"}

// maxEdit bounds the body of a change.
const maxEdit = 4096

// answerEdit pins, unpins or removes a tip. The memory of a run that is running is its
// own.
func (p *Page) answerEdit(ctx context.Context, o *openRun, r *http.Request) (any, error) {
	what := r.PathValue("edit")
	if !slices.Contains(edits, what) {
		return nil, errNotFound
	}
	var body struct{ ID string }
	if err := json.NewDecoder(io.LimitReader(r.Body, maxEdit)).Decode(&body); err != nil {
		return nil, badRequest("the body is no JSON with the id of a tip")
	}
	key, err := tipKey(body.ID)
	if err != nil {
		return nil, err
	}
	const refused = "the run is running, and its memory is its own until it ends"
	hint := fmt.Sprintf("stop it with Ctrl-C, then try again, or: empo2 memory %s %s %s", what,
		safetext.Argument(filepath.Base(o.Dir)), body.ID)
	switch {
	case p.options.Edit == nil:
		return nil, &answerError{http.StatusNotImplemented, "tips cannot be changed here", hint}
	case readStatus(o.Dir).live(time.Now()):
		return nil, &answerError{http.StatusConflict, refused, hint}
	}
	err = p.options.Edit(ctx, o.Dir, what, *key)
	if errors.Is(err, ledger.ErrInUse) {
		return nil, &answerError{http.StatusConflict, refused, hint}
	}
	return map[string]bool{"ok": err == nil}, err
}
