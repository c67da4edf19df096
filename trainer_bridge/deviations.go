package trainerbridge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// Deviations is the capability table of a trainer: what it does differently from the trainer
// of this project. The zero value deviates in nothing. [Detect] chooses it.
type Deviations struct {
	Server string // its name; empty: this project's own trainer
	// NoEmpo2: the loss empo2 is unknown. The client computes its gradient per token, and
	// sends it as importance_sampling.
	NoEmpo2 bool
	// MayMean: the gradient of an optimizer step is a sum or a mean, depending on the trainer's backend, which it does
	// not name. takesMeans measures it.
	MayMean bool
	// Mean: the gradient of an optimizer step is the mean over its rows of Σ w·ℓ / Σ w, not
	// the sum of w·ℓ. The client puts the missing factors into the advantages.
	Mean bool
	// NoReplays: a request that is sent again is executed again.
	NoReplays bool
	// NoOrder: requests that are under way at the same time are executed in any order.
	NoOrder bool
	// LoadsFirst: a checkpoint is only loaded by the first request of a new model.
	LoadsFirst bool
	// NoCheckpoints: it gives only adapters and takes no checkpoints, so that a checkpoint
	// can only be loaded where it was saved.
	NoCheckpoints bool
	// FailuresAre400: the result of a failed request is the HTTP status 400.
	FailuresAre400 bool
	// NoClipping: optimizer.grad_clip_norm has no effect.
	NoClipping bool
	// OwnModules: it chooses the modules that get an adapter.
	OwnModules bool
	// Alpha is LoRA's alpha, whatever is asked for; 0: trainer.alpha.
	Alpha float64
	// GradNorm is its name of the gradient's norm; empty: the own trainer's. NoNorm: it may be missing.
	GradNorm string
	NoNorm   bool
}

// The known trainers.
var (
	ownTrainer = Deviations{}
	// tinkerService is the hosted service, and any server that keeps to its protocol.
	tinkerService = Deviations{
		Server: "the Tinker service", NoEmpo2: true, LoadsFirst: true, NoCheckpoints: true, OwnModules: true,
		Alpha: 32, NoNorm: true,
	}
	// skyRL is SkyRL's Tinker server. Its JAX backend takes means, its other backends sum.
	// Version 0.3.0 does not know sequence numbers, later ones answer a repeated request.
	skyRL = Deviations{
		Server: "SkyRL", NoEmpo2: true, MayMean: true, NoReplays: true, NoOrder: true, LoadsFirst: true,
		NoCheckpoints: true, FailuresAre400: true, NoClipping: true, OwnModules: true, Alpha: 32,
		GradNorm: "skyrl.ai/grad_norm",
	}
)

// name is the server's name for messages.
func (d Deviations) name() string {
	if d.Server == "" {
		return "empo2's trainer"
	}
	return d.Server
}

// normKey is the metric of the gradient's norm.
func (d Deviations) normKey() string {
	if d.GradNorm == "" {
		return gradNorm
	}
	return d.GradNorm
}

// Detected is what a trainer says about itself.
type Detected struct {
	Deviations
	Models []string // that it can train; empty: it does not say
}

// Detect asks a trainer what it is. The address, the token and the deadlines of cfg are used.
func Detect(ctx context.Context, cfg ClientConfig) (Detected, error) {
	cfg = cfg.withDefaults()
	to, err := newLink(cfg.URL, cfg.Token, cfg.AnswerTimeout, cfg.Log, jsonhttp.NewTransport(2))
	if err != nil {
		return Detected{}, err
	}
	defer to.http.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.AnswerTimeout,
		fmt.Errorf("get_server_capabilities: no answer within %v", cfg.AnswerTimeout))
	defer cancel()
	found, err := to.detect(ctx)
	if err != nil {
		return Detected{}, &addressError{url: to.http.URL(), err: err}
	}
	return found, nil
}

func (l link) detect(ctx context.Context) (found Detected, err error) {
	var can struct {
		Models []struct {
			Name string `json:"model_name"`
		} `json:"supported_models"`
		Server string `json:"server"`
	}
	if err := l.get(ctx, "/api/v1/get_server_capabilities", &can); err != nil {
		return found, unreached("get_server_capabilities", err)
	}
	for _, m := range can.Models {
		found.Models = append(found.Models, m.Name)
	}
	if can.Server == "empo2" {
		found.Deviations = ownTrainer
		return found, nil
	}
	found.Deviations, err = l.detectService(ctx)
	return found, err
}

// detectService tells SkyRL from the hosted service by the name at the address itself. The service has another page
// there, or none. Any other error is returned: SkyRL must not be taken for the service, which sums gradients.
func (l link) detectService(ctx context.Context) (Deviations, error) {
	var root struct {
		Name string `json:"name"`
	}
	err := l.get(ctx, "/", &root)
	var e *jsonhttp.Error
	switch {
	case err == nil && strings.HasPrefix(root.Name, "Tinker API"):
		return skyRL, nil
	case err == nil, jsonhttp.Status(err) == http.StatusNotFound:
		return tinkerService, nil
	case errors.As(err, &e) && e.Kind == jsonhttp.Malformed && !e.Truncated: // a page for people
		return tinkerService, nil
	}
	return Deviations{}, unreached("GET /", err)
}

// get reads an answer, and asks up to four times after temporary errors.
func (l link) get(ctx context.Context, path string, answer any) error {
	retry := jsonhttp.Retry{Attempts: 4, Again: again}
	return retry.Do(ctx, func(ctx context.Context) error {
		return l.http.Call(ctx, jsonhttp.Request{Path: path}, answer)
	})
}

// unreached is the error of an operation that got no answer, or a refusal.
func unreached(op string, err error) error {
	if jsonhttp.Status(err) == 0 {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return refusal(op, err)
}

// BaseModel chooses the model to train by its name at the trainer. wanted is trainer.base_model, folder is
// model.path.
func (d Detected) BaseModel(wanted, folder string) (string, error) {
	short := func(name string) string {
		parts := strings.Split(strings.TrimRight(name, "/"), "/")
		return parts[len(parts)-1]
	}
	var same []string
	for _, m := range d.Models {
		if m == wanted || wanted == "" && short(m) == short(folder) {
			same = append(same, m)
		}
	}
	switch {
	case len(d.Models) == 0 || len(same) == 1 && wanted != "":
		return wanted, nil
	case len(same) == 1:
		return same[0], nil
	case wanted == "" && len(d.Models) == 1:
		return d.Models[0], nil
	}
	return "", fmt.Errorf("%s has the models %s; which one is model.path is not clear\n"+
		"  hint: name it: trainer.base_model = %q", d.name(), quoted(d.Models), d.Models[0])
}

func quoted(names []string) string {
	const most = 10
	text := strings.Join(names[:min(most, len(names))], ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return text
}

// An addressError is an error of the first exchange with a trainer elsewhere, with a remedy.
type addressError struct {
	url string
	err error
}

func (e *addressError) Error() string {
	text := fmt.Sprintf("the trainer at %s: %v", e.url, e.err)
	var refused *RequestError
	switch {
	case strings.Contains(text, "hint:"):
	case errors.As(e.err, &refused) && refused.Status == http.StatusNotFound:
		text += "\n  hint: trainer.url is the address without /api/v1; is a Tinker server there?"
	case errors.Is(e.err, ErrUnavailable):
		text += "\n  hint: is it running, and can this machine reach it? trainer.url names it; without that key " +
			"empo2 starts a trainer here"
	}
	return text
}

// Unwrap returns the cause.
func (e *addressError) Unwrap() error { return e.err }
