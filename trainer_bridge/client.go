package trainerbridge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// ClientConfig says where a trainer is and which adapter to train.
type ClientConfig struct {
	// Process is the supervised trainer, whose URL, token and model are used
	// and whose death ends every call at once. Nil: the three fields below.
	Process   *Process
	URL       string // for example "http://127.0.0.1:8000"
	Token     string // empty: none is sent
	BaseModel string // as the trainer calls it

	Rank  int     // of the LoRA adapter, at least 1
	Alpha float64 // LoRA's scale is Alpha/Rank
	Seed  int64   // of the adapter's first weights

	// Timeout bounds an operation from submission to result; 0 is 5 minutes.
	Timeout time.Duration
	// AnswerTimeout bounds one HTTP exchange, after which it is repeated. It
	// must exceed the time that the trainer holds a long poll; 0 is a minute.
	AnswerTimeout time.Duration
	// Log gets a warning per repeated request; the zero value is silent.
	Log zerolog.Logger
}

// A Client trains one adapter. Requests carry sequence numbers that the
// client assigns in order, so that a request whose answer was lost is
// answered when it is repeated, never executed twice.
//
// Its methods may be called from several goroutines, but one call is served
// at a time; who wants a certain order must call from one goroutine.
type Client struct {
	link
	cfg   ClientConfig
	model string
	turn  chan struct{} // holds one token; who has it talks

	// All below belong to whoever has the turn.
	seq       int64 // next sequence number
	taken     bool  // seq may have reached the trainer although nobody said so
	uncertain error // why the trainer's weights are not known

	heartbeat context.CancelFunc
	beating   chan struct{} // closed when the heartbeat has ended
}

// Dial opens a session and creates the adapter. Close the client when done.
func Dial(ctx context.Context, cfg ClientConfig) (*Client, error) {
	return dial(ctx, cfg, jsonhttp.NewTransport(4)) // one call at a time, heartbeats and health checks
}

func dial(ctx context.Context, cfg ClientConfig, transport http.RoundTripper) (*Client, error) {
	cfg = cfg.withDefaults()
	if cfg.Rank < 1 {
		return nil, fmt.Errorf("dial trainer: rank %d is less than 1", cfg.Rank)
	}
	to, err := newLink(cfg.URL, cfg.Token, cfg.AnswerTimeout, cfg.Log, transport)
	if err != nil {
		return nil, fmt.Errorf("dial trainer: %w", err)
	}
	c := &Client{
		link: to, cfg: cfg,
		turn: make(chan struct{}, 1), seq: 1, beating: make(chan struct{}),
	}
	c.turn <- struct{}{}
	session, err := c.open(ctx)
	if err != nil {
		to.http.Close()
		return nil, fmt.Errorf("dial trainer %s: %w", cfg.URL, err)
	}
	beat, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.heartbeat = cancel
	go c.beat(beat, session)
	return c, nil
}

func (cfg ClientConfig) withDefaults() ClientConfig {
	if p := cfg.Process; p != nil {
		cfg.URL, cfg.Token, cfg.BaseModel = p.URL(), p.Token(), p.Ready().Model
	}
	cfg.URL = strings.TrimRight(cfg.URL, "/")
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Minute
	}
	if cfg.AnswerTimeout == 0 {
		cfg.AnswerTimeout = time.Minute
	}
	return cfg
}

// open creates the session and the model and returns the session's id.
func (c *Client) open(ctx context.Context) (string, error) {
	ctx, end, err := c.begin(ctx, "create_model")
	if err != nil {
		return "", err
	}
	defer end()
	var session struct {
		ID string `json:"session_id"`
	}
	err = c.call(ctx, "create_session", sessionRequest{
		Tags: []string{"empo2"}, UserMetadata: map[string]string{}, SDKVersion: "0.24.1", Type: "create_session",
	}, &session)
	if err != nil {
		return "", err
	}
	var ack submitted
	err = c.call(ctx, "create_model", modelRequest{
		SessionID: session.ID, BaseModel: c.cfg.BaseModel, Type: "create_model",
		Lora: loraConfig{Rank: c.cfg.Rank, Alpha: c.cfg.Alpha, Seed: c.cfg.Seed, TrainMLP: true, TrainAttn: true},
	}, &ack)
	if err != nil {
		return "", err
	}
	var created struct {
		ModelID string `json:"model_id"`
	}
	if err := c.result(ctx, "create_model", ack.RequestID, &created); err != nil {
		return "", err
	}
	if created.ModelID == "" {
		return "", errors.New("create_model: the answer has no model_id")
	}
	c.model = created.ModelID
	return session.ID, nil
}

// ModelID is the trainer's name of the adapter; a new Dial gets a new one.
func (c *Client) ModelID() string { return c.model }

// Close ends the heartbeat and the connections. The trainer keeps running.
func (c *Client) Close() error {
	c.heartbeat()
	<-c.beating
	c.http.Close()
	return nil
}

// Health reports whether the trainer answers, within 5 seconds.
func (c *Client) Health(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("health: no answer within 5s"))
	defer cancel()
	err := c.http.Call(ctx, jsonhttp.Request{Path: "/api/v1/healthz"}, nil)
	switch {
	case err == nil:
		return nil
	case jsonhttp.Status(err) == 0:
		return unavailable(ctx, "health", err)
	}
	return refusal("health", err)
}

// Forward returns, for each row, log π(tokens[i+1] | tokens[:i+1]) in nats
// under the adapter as it is: len(Tokens)-1 values. Only Tokens are read.
func (c *Client) Forward(ctx context.Context, rows []Row) ([][]float32, error) {
	bare := make([]Row, len(rows))
	for i, r := range rows {
		zero := make([]float32, len(r.Tokens))
		bare[i] = Row{Tokens: r.Tokens, Weights: zero, Logprobs: zero, Advantages: zero}
	}
	_, logprobs, err := c.train(ctx, "forward", bare, Loss{Name: "cross_entropy"})
	return logprobs, err
}

// ForwardBackward adds the loss's gradient over all rows to what has gathered
// since the last OptimStep. Besides the metrics it returns what Forward would
// have returned.
func (c *Client) ForwardBackward(ctx context.Context, rows []Row, loss Loss) (Stats, [][]float32, error) {
	return c.train(ctx, "forward_backward", rows, loss)
}

// OptimStep applies the gathered gradient and clears it.
func (c *Client) OptimStep(ctx context.Context, adam Adam) (Stats, error) {
	const op = "optim_step"
	if err := adam.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	var out struct {
		Metrics metrics `json:"metrics"`
	}
	err := c.one(ctx, op, func(seq int64) any {
		return optimStepRequest{ModelID: c.model, SeqID: seq, Adam: adam, Type: op}
	}, &out)
	if err != nil {
		return nil, err
	}
	return out.Metrics.stats(), nil
}

// SaveWeights writes the adapter and the optimizer's exact state under a
// name (letters, digits, dot, dash, underscore). It replaces an older
// checkpoint of that name.
func (c *Client) SaveWeights(ctx context.Context, name string) error {
	_, err := c.save(ctx, "save_weights", name)
	return err
}

// Export is an adapter that inference servers can load.
type Export struct {
	Path string // the trainer's own name of it, tinker://…
	Dir  string // absolute directory; empty if the trainer is elsewhere
}

// SaveForSampler exports the adapter under a name. It replaces an older export
// of that name.
func (c *Client) SaveForSampler(ctx context.Context, name string) (Export, error) {
	out, err := c.save(ctx, "save_weights_for_sampler", name)
	return Export(out), err
}

var validName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

func (c *Client) save(ctx context.Context, op, name string) (pathOutput, error) {
	var out pathOutput
	if !validName.MatchString(name) {
		return out, fmt.Errorf("%s: %q cannot be a name", op, name)
	}
	err := c.one(ctx, op, func(seq int64) any {
		return saveRequest{ModelID: c.model, SeqID: seq, Path: name, Overwrite: true, Type: op}
	}, &out)
	if err != nil {
		return pathOutput{}, fmt.Errorf("save %s: %w", name, err)
	}
	return out, nil
}

// LoadWeights restores a checkpoint that SaveWeights wrote, in this process of
// the trainer or an earlier one, and forgets any gathered gradient. The
// checkpoint is a name or a whole tinker:// path. With optimizer the
// optimizer's state is restored too, so that training continues as if it had
// not been interrupted.
func (c *Client) LoadWeights(ctx context.Context, checkpoint string, optimizer bool) error {
	const op = "load_weights"
	path := checkpoint
	if !strings.HasPrefix(path, "tinker://") {
		if !validName.MatchString(path) {
			return fmt.Errorf("%s: %q is neither a name nor a tinker:// path", op, path)
		}
		path = "tinker://" + c.model + "/weights/" + path
	}
	err := c.one(ctx, op, func(seq int64) any {
		return loadRequest{ModelID: c.model, SeqID: seq, Path: path, Optimizer: optimizer, Type: op}
	}, new(pathOutput))
	if err != nil {
		return fmt.Errorf("load %s: %w", checkpoint, err)
	}
	return nil
}
