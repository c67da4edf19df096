package fleet

import (
	"context"
	"errors"

	"github.com/empo2/empo2/sampler"
)

// A Server is one replica: the client of one running inference server. Its
// methods may be called concurrently and send one request each, once, unless
// they say otherwise. An error after which the request may be sent again wraps
// [ErrLost].
type Server interface {
	// URL names the server in errors and logs.
	URL() string
	// Probe finds out what the server can do; it may take several requests.
	Probe(ctx context.Context) (Probe, error)
	// Health is nil if the server says that it is healthy.
	Health(ctx context.Context) error
	// Load is the server's own count of requests; it wraps
	// [errors.ErrUnsupported] where the server keeps none.
	Load(ctx context.Context) (Load, error)
	// Adapters are the directories of the loaded adapters by their names. The
	// directory is empty if the server does not tell it.
	Adapters(ctx context.Context) (map[string]string, error)
	// LoadAdapter loads a PEFT directory under a new name. It wraps [ErrLoaded]
	// if the server has the name already.
	LoadAdapter(ctx context.Context, name, dir string) error
	// UnloadAdapter unloads the adapter of a name.
	UnloadAdapter(ctx context.Context, name string) error
	// Complete answers a request with a model or an adapter. It wraps
	// [ErrUnknownModel] if the server has neither under the name.
	Complete(ctx context.Context, model string, r sampler.Request) (Answer, error)
	// Close closes connections and stops what was started for the server.
	Close() error
}

// A Sleeper is a Server that can give the accelerator's memory back and take it
// again. Adapters may be lost meanwhile.
type Sleeper interface {
	// Asleep says whether the server sleeps, whoever put it to sleep.
	Asleep(ctx context.Context) (bool, error)
	Sleep(ctx context.Context) error
	Wake(ctx context.Context) error
}

// A Probe is what a server says about itself.
type Probe struct {
	Model string // the base model's name in requests
	Root  string // the path or name that the server loaded it from; empty: unknown
	// Sleeps says that the server, as launched, can sleep. It is a Sleeper then.
	Sleeps       bool
	Capabilities sampler.Capabilities
}

// Load is how many requests a server works on, those of other clients included.
type Load struct {
	Running int // being computed
	Waiting int // accepted but not begun
}

// An Answer is a completion as a server gave it, before it is checked.
type Answer struct {
	Model    string // the model that answered, as the server names it
	Prompt   int    // tokens of the prompt that were read
	IDs      []int32
	Logprobs []float32 // one per id; NaN where the server gave none
	Text     string
	Finish   sampler.FinishReason // empty: the server gave another reason
}

var (
	// ErrLost is wrapped by errors after which a request may be sent again:
	// nothing was answered.
	ErrLost = errors.New("connection to the server lost")
	// ErrUnknownModel is wrapped when a server does not have the model or
	// adapter asked for: it was restarted since.
	ErrUnknownModel = errors.New("the server does not have the model")
	// ErrLoaded is wrapped when an adapter's name is taken.
	ErrLoaded = errors.New("the server has an adapter of this name")
)
