package trainerbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// ClientConfig is the address of a trainer and the adapter to train.
type ClientConfig struct {
	// Process is a supervised trainer. The client uses its URL, token and model,
	// and every call ends when the process ends. Nil means that the next three
	// fields are used.
	Process   *Process
	URL       string // for example "http://127.0.0.1:8000"
	Token     string // empty: none is sent
	BaseModel string // as the trainer calls it

	// Deviations say what the trainer does differently; the zero value is this project's own.
	Deviations Deviations

	Rank  int     // of the LoRA adapter, at least 1
	Alpha float64 // LoRA's scale is Alpha/Rank
	Seed  int64   // of the adapter's first weights
	// TargetModules are the linear layers that get an adapter: names, or ends
	// of names such as "q_proj" or "self_attn.q_proj". Instead of names it may
	// be one keyword: "all-linear" or "attention". Empty means all-linear. Vision
	// towers, routers and the output embedding are never adapted.
	TargetModules []string

	// Timeout bounds an operation from submission to result; 0 is 5 minutes.
	Timeout time.Duration
	// AnswerTimeout bounds one HTTP exchange, which is then retried. It must
	// exceed the time that the trainer holds a long poll; 0 is a minute.
	AnswerTimeout time.Duration
	// Log gets a warning before each retry; the zero value is silent.
	Log zerolog.Logger
}

// A Client trains one adapter. The client numbers its requests in order. If an
// answer is lost, the client repeats the request under the same number, and the
// trainer answers without executing it again.
//
// Several goroutines may call its methods, but the client serves one call at a
// time. Callers that need a certain order must use one goroutine.
type Client struct {
	link
	cfg     ClientConfig
	model   string
	adapted []string
	turn    chan struct{} // holds one token; a call takes it while it is served
	// transport is that of link, for bodies that are not JSON.
	transport http.RoundTripper

	// The call that has the token owns the next three fields.
	seq       int64 // next sequence number
	unread    bool  // the trainer may have accepted a request whose answer could not be read
	taken     bool  // seq may have reached the trainer, but no answer confirmed it
	uncertain error // why the trainer's weights are not known

	session   string
	known     context.Context // ends when the trainer no longer knows the session
	forgotten context.CancelFunc
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
		link: to, cfg: cfg, transport: transport,
		turn: make(chan struct{}, 1), seq: 1, beating: make(chan struct{}),
	}
	c.turn <- struct{}{}
	c.known, c.forgotten = context.WithCancel(context.Background())
	if c.session, err = c.open(ctx); err != nil {
		to.http.Close()
		return nil, fmt.Errorf("dial trainer %s: %w", to.http.URL(), err)
	}
	beat, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.heartbeat = cancel
	go c.beat(beat)
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
	if session.ID == "" {
		return "", errors.New("create_session: the answer has no session_id")
	}
	if err := c.create(ctx, session.ID); err != nil {
		return "", err
	}
	return session.ID, nil
}

// create creates the model. A trainer that executes a repeated request again gets it once: the model of a lost answer
// has no name here, and the trainer keeps it.
func (c *Client) create(ctx context.Context, session string) error {
	var ack struct {
		submitted
		ModelID string `json:"model_id"` // some trainers send it only with the result
	}
	err := c.send(ctx, "create_model", modelRequest{
		SessionID: session, BaseModel: c.cfg.BaseModel, Type: "create_model",
		Lora: loraConfig{
			Rank: c.cfg.Rank, Alpha: c.cfg.Alpha, Seed: c.cfg.Seed, TrainMLP: true, TrainAttn: true,
			TargetModules: c.cfg.TargetModules,
		},
	}, &ack)
	if err != nil {
		return err
	}
	if ack.RequestID == "" {
		return errors.New("create_model: the answer has no request_id")
	}
	var created createdModel
	if err := c.result(ctx, "create_model", ack.RequestID, &created); err != nil {
		if c.model = ack.ModelID; c.model != "" {
			c.unload(ctx)
		}
		return err
	}
	if created.ModelID == "" {
		return errors.New("create_model: the answer has no model_id")
	}
	c.model, c.adapted = created.ModelID, created.Adapted
	if created.Lora.Alpha > 0 { // the alpha that the trainer uses
		c.cfg.Deviations.Alpha = created.Lora.Alpha
	}
	if len(created.Skipped) > 0 {
		c.cfg.Log.Warn().Interface("modules", created.Skipped).Msg("the trainer does not adapt some modules")
	}
	return nil
}

// unload frees the model at the trainer, within 5 seconds. It may fail: a trainer unloads models without a session.
func (c *Client) unload(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	body := map[string]string{"model_id": c.model, "type": "unload_model"}
	err := c.http.Call(ctx, jsonhttp.Request{Path: "/api/v1/unload_model", Body: body}, nil)
	if err != nil {
		c.cfg.Log.Debug().Err(err).Str("model", c.model).Msg("the trainer did not unload a model")
	}
}

// ModelID returns the trainer's name of the adapter. Every Dial gets a new one.
func (c *Client) ModelID() string { return c.model }

// AdaptedModules returns the names of the modules that the adapter changes,
// with * in place of layer numbers. It is nil if the trainer does not report
// them.
func (c *Client) AdaptedModules() []string { return c.adapted }

// Close ends the heartbeat and the connections. The trainer continues to run.
func (c *Client) Close() error {
	c.heartbeat()
	<-c.beating
	c.http.Close()
	return nil
}

// Health reports whether the trainer answers and knows the client's session, within 5 seconds.
func (c *Client) Health(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("health: no answer within 5s"))
	defer cancel()
	err := c.http.Call(ctx, jsonhttp.Request{Path: "/api/v1/healthz"}, nil)
	if err == nil && c.known.Err() == nil {
		_ = c.beatOnce(ctx) // only what it does to c.known matters: some trainers have no heartbeats
	}
	switch {
	case err == nil && c.known.Err() != nil:
		return fmt.Errorf("health: %w: %w", ErrUnavailable, errForgotten)
	case err == nil:
		return nil
	case jsonhttp.Status(err) == 0:
		return unavailable(ctx, "health", err)
	}
	return refusal("health", err)
}

// Forward returns log π(tokens[i+1] | tokens[:i+1]) of each row in nats, under
// the present adapter: len(Tokens)-1 values. It reads only Tokens.
func (c *Client) Forward(ctx context.Context, rows []Row) ([][]float32, error) {
	bare := make([]Row, len(rows))
	for i, r := range rows {
		zero := make([]float32, len(r.Tokens))
		bare[i] = Row{Tokens: r.Tokens, Logprobs: zero, Advantages: zero}
	}
	_, logprobs, err := c.train(ctx, "forward", bare, Loss{Name: "cross_entropy"})
	return logprobs, err
}

// ForwardBackward adds the gradient of the loss over all rows to the gradient
// accumulated since the last OptimStep. It returns the metrics, and the
// log-probs that Forward would return for the trained tokens; a trainer may
// return 0 for the others.
func (c *Client) ForwardBackward(ctx context.Context, rows []Row, loss Loss) (Stats, [][]float32, error) {
	return c.train(ctx, "forward_backward", rows, loss)
}

// OptimStep applies the accumulated gradient and clears it.
func (c *Client) OptimStep(ctx context.Context, adam Adam) (Stats, error) {
	const op = "optim_step"
	if err := adam.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	build := func(seq int64) any {
		return optimStepRequest{ModelID: c.model, SeqID: seq, Adam: adam, Type: op}
	}
	var out optimStepResult
	err := c.exchange(ctx, op, []request{build}, smallAnswer, func(_ int, raw json.RawMessage) error {
		return out.read(raw, c.cfg.Deviations)
	})
	if err != nil {
		return nil, err
	}
	return out.Metrics.stats(), nil
}

// SaveWeights writes a checkpoint: the adapter and the optimizer's exact state.
// A name has letters, digits, dots, dashes and underscores. SaveWeights replaces
// an older checkpoint of that name.
func (c *Client) SaveWeights(ctx context.Context, name string) error {
	_, err := c.SaveCheckpoint(ctx, name)
	return err
}

// SaveCheckpoint is SaveWeights. It returns the path under which the trainer keeps the checkpoint, tinker://….
func (c *Client) SaveCheckpoint(ctx context.Context, name string) (string, error) {
	out, err := c.save(ctx, "save_weights", name)
	return out.Path, err
}

// Export is an adapter that inference servers can load.
type Export struct {
	Path string // the trainer's name of the export, tinker://…
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
	if out.Path == "" {
		return pathOutput{}, fmt.Errorf("save %s: the trainer's answer has no path%s", name, otherHint)
	}
	return out, nil
}

// LoadWeights restores a checkpoint that SaveWeights wrote in this process of
// the trainer or in an earlier one. It clears the accumulated gradient. The
// checkpoint is a name or a complete tinker:// path. With optimizer it also
// restores the optimizer's state, so that training continues as if it was never
// interrupted.
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
