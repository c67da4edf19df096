package strategies

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"sync"
	"time"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// HTTPConfig sets up a memory in another process.
type HTTPConfig struct {
	URL     string // recall and learn are appended
	Key     string // bearer token; empty: none
	Timeout time.Duration
	K       int // tips to ask for
	// Transport replaces the network in tests.
	Transport http.RoundTripper
}

// HTTP is a memory of one's own, in another process.
//
//	POST URL/recall  {"scope", "state", "k", "seed"}  →  {"tips": [{"id", "text", "score"}], "similar"}
//	POST URL/learn   {"id", "scope", "turns": [{"state", "action", "reward", "shown"}], "tip", "score",
//	                  "return", "success", "memory", "return_without_tips"}  →  {}
//
// An id of a tip is a whole number below 2^53, and comes back in "shown". Without ids,
// equal texts have equal ids. "similar" counts similar states for the novelty bonus;
// without it, it is the number of tips.
//
// learn gets the episodes of a step one by one, right before the step is committed. If the
// run dies in between, it sends them again with the same ids: the server must count an id
// once. Requests that fail for reasons that pass are repeated until the deadline.
type HTTP struct {
	config HTTPConfig
	db     *sql.DB
	web    *jsonhttp.Client
	run    string // begins the ids of episodes

	mu   sync.Mutex
	sent []memory.Tip // the names of episodes that were learnt and not committed
}

var _ memory.Strategy = (*HTTP)(nil)

// HTTPEpisode is the body of a learn request.
type HTTPEpisode struct {
	ID                string     `json:"id"`
	Scope             string     `json:"scope"`
	Turns             []HTTPTurn `json:"turns"`
	Tip               string     `json:"tip"`
	Score             float64    `json:"score"`
	Return            float64    `json:"return"`
	Success           bool       `json:"success"`
	Memory            bool       `json:"memory"`
	ReturnWithoutTips *float64   `json:"return_without_tips"`
}

// HTTPTurn is a turn of an [HTTPEpisode].
type HTTPTurn struct {
	State  string  `json:"state"`
	Action string  `json:"action"`
	Reward float64 `json:"reward"`
	Shown  []int64 `json:"shown"`
}

type recallRequest struct {
	Scope string `json:"scope"`
	State string `json:"state"`
	K     int    `json:"k"`
	Seed  uint64 `json:"seed"`
}

type recallAnswer struct {
	Tips []struct {
		ID    *int64  `json:"id"`
		Text  string  `json:"text"`
		Score float64 `json:"score"`
	} `json:"tips"`
	Similar *int `json:"similar"`
}

// OpenHTTP connects to the memory. db keeps the name of the run, which begins the ids of
// its episodes. Call Close after the last recall.
func OpenHTTP(ctx context.Context, db *sql.DB, c HTTPConfig) (*HTTP, error) {
	if c.URL == "" || c.Timeout <= 0 || c.K < 1 {
		return nil, errors.New("open memory: http needs a URL, a timeout and k ≥ 1")
	}
	if err := memory.CheckStrategy(ctx, db, "http"); err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	web, err := jsonhttp.New(jsonhttp.Config{URL: c.URL, Server: "memory", Key: c.Key, Transport: c.Transport,
		ErrorsInAnswers: true})
	if err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	h := &HTTP{config: c, db: db, web: web}
	if h.run, err = runName(ctx, db); err != nil {
		web.Close()
		return nil, fmt.Errorf("open memory: %w", err)
	}
	return h, nil
}

// runName returns a name that only this run has. A run that is made again under the same
// name has another one.
func runName(ctx context.Context, db *sql.DB) (name string, err error) {
	const query = `SELECT value FROM memory_meta WHERE key = 'run'`
	err = db.QueryRowContext(ctx, query).Scan(&name)
	if !errors.Is(err, sql.ErrNoRows) { // a database that is open for reading has a name
		return name, err
	}
	for key, value := range map[string]string{"strategy": "http", "run": rand.Text()[:12]} {
		_, err := db.ExecContext(ctx, `INSERT INTO memory_meta (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, key, value)
		if err != nil {
			return "", fmt.Errorf("write the %s of the memory: %w", key, err)
		}
	}
	err = db.QueryRowContext(ctx, query).Scan(&name)
	return name, err
}

// Close releases idle connections.
func (h *HTTP) Close() error {
	h.web.Close()
	return nil
}

// post sends a request until there is an answer, at most until the deadline.
func (h *HTTP) post(ctx context.Context, path string, body, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.config.Timeout,
		fmt.Errorf("no answer within %v (memory.http.timeout_seconds)", h.config.Timeout))
	defer cancel()
	r := jsonhttp.Retry{First: 100 * time.Millisecond, Last: 4 * time.Second,
		Again: func(err error) bool { return jsonhttp.Retryable(err) || jsonhttp.Status(err) >= 500 }}
	err := r.Do(ctx, func(ctx context.Context) error {
		return h.web.Call(ctx, jsonhttp.Request{Path: path, Body: body}, out)
	})
	if err != nil {
		return fmt.Errorf("memory at %s: %w\n  hint: is the server of memory.http.url running? It must answer "+
			"POST recall and POST learn", h.web.URL(), err)
	}
	return nil
}

// Recall implements [memory.Strategy].
func (h *HTTP) Recall(ctx context.Context, s memory.State) (memory.Recollection, error) {
	var answer recallAnswer
	err := h.post(ctx, "/recall", recallRequest{s.Scope, s.Text, h.config.K, s.Seed >> 11}, &answer)
	if err != nil {
		return memory.Recollection{}, err
	}
	out := memory.Recollection{Similar: len(answer.Tips)}
	if answer.Similar != nil {
		out.Similar = *answer.Similar
	}
	if out.Similar < 0 {
		return memory.Recollection{}, fmt.Errorf("memory at %s: similar is %d, want 0 or more", h.web.URL(), out.Similar)
	}
	for _, tip := range answer.Tips[:min(len(answer.Tips), h.config.K)] {
		t := memory.Tip{Scope: s.Scope, Text: memory.CleanTip(tip.Text, 0), Score: tip.Score}
		if t.Text == "" {
			continue
		}
		if t.ID = textID(t.Text); tip.ID != nil {
			t.ID = *tip.ID
		}
		out.Tips = append(out.Tips, t)
	}
	return out, nil
}

// textID is the id of a tip that has none, of 53 bits.
func textID(text string) int64 {
	h := fnv.New64a()
	h.Write([]byte(text)) // never fails
	return int64(h.Sum64() >> 11)
}

// Learn implements [memory.Strategy]. It sends the episode, unless this database has
// committed it before.
func (h *HTTP) Learn(ctx context.Context, x memory.Experience) error {
	if err := validate(x); err != nil {
		return fmt.Errorf("learn in scope %q: %w", x.Scope, err)
	}
	known, err := memory.Learnt(ctx, h.db, x.Tip)
	if err != nil || known {
		return err
	}
	var answer struct{}
	if err := h.post(ctx, "/learn", h.episode(x), &answer); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent = append(h.sent, x.Tip)
	return nil
}

// Commit implements [memory.Strategy]. It records which episodes were sent.
func (h *HTTP) Commit(ctx context.Context, tx *sql.Tx) (done func(committed bool), err error) {
	h.mu.Lock()
	sent := h.sent
	h.sent = nil
	h.mu.Unlock()
	for _, t := range sent {
		if _, err := memory.First(ctx, tx, t); err != nil {
			return func(bool) {}, fmt.Errorf("commit memory: %w", err)
		}
	}
	return func(bool) {}, nil
}

func (h *HTTP) episode(x memory.Experience) HTTPEpisode {
	out := HTTPEpisode{
		ID:    fmt.Sprintf("%s/%d/%d/%d", h.run, x.Tip.Step, x.Tip.Group, x.Tip.Episode),
		Scope: x.Scope, Turns: []HTTPTurn{}, Tip: memory.CleanTip(x.Tip.Text, 0), Score: x.Tip.Score, Return: x.Return,
		Success: x.Success, Memory: x.Memory, ReturnWithoutTips: x.WithoutTips,
	}
	for i, state := range x.States {
		turn := HTTPTurn{State: state, Shown: []int64{}}
		if x.Turns != nil {
			turn.Action, turn.Reward = x.Turns[i].Action, x.Turns[i].Reward
			turn.Shown = append(turn.Shown, x.Turns[i].Shown...)
		}
		out.Turns = append(out.Turns, turn)
	}
	return out
}
