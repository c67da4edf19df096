package fleet

import (
	"context"
	"errors"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// A Server is the client of one replica. Its methods are safe for concurrent
// use. Each sends one request without retries, unless its comment says
// otherwise. An error wraps [ErrLost] if the request may be sent again.
type Server interface {
	// URL names the server in errors and logs.
	URL() string
	// Probe finds out what the server can do. It may send several requests.
	Probe(ctx context.Context) (Probe, error)
	// Health returns nil if the server says that it is healthy.
	Health(ctx context.Context) error
	// Load returns the server's count of requests. The error wraps
	// [errors.ErrUnsupported] if the server has none.
	Load(ctx context.Context) (Load, error)
	// Adapters returns the directories of the loaded adapters by name. A
	// directory is empty if the server does not list it.
	Adapters(ctx context.Context) (map[string]string, error)
	// Tokenize encodes text with the server's tokenizer. Control tokens in it become
	// their ids, and no tokens are added. The error wraps [errors.ErrUnsupported] if
	// the server has no such request.
	Tokenize(ctx context.Context, text string) ([]int32, error)
	// Detokenize decodes ids. Control tokens become their text. Its error is like that of
	// Tokenize.
	Detokenize(ctx context.Context, ids []int32) (string, error)
	// TokenizeMessages applies the model's chat template with further arguments, and
	// encodes the result. With generation it ends with the beginning of the policy's
	// message. The error wraps [chat.ErrRefused] if the template refuses the
	// conversation, and [errors.ErrUnsupported] if the server has no such request.
	TokenizeMessages(ctx context.Context, messages []chat.Message, generation bool, args map[string]any) ([]int32, error)
	// LoadAdapter loads a PEFT directory under a new name. The error wraps
	// [ErrLoaded] if the name is taken.
	LoadAdapter(ctx context.Context, name, dir string) error
	// UnloadAdapter unloads the adapter of a name.
	UnloadAdapter(ctx context.Context, name string) error
	// Complete samples from the model or adapter of a name. The error wraps
	// [ErrUnknownModel] if the server does not have it.
	Complete(ctx context.Context, model string, r sampler.Request) (Answer, error)
	// Close closes connections and stops the process, if there is one.
	Close() error
}

// A Sleeper is a Server that can release the accelerator's memory and allocate
// it again. Adapters may be lost in between.
type Sleeper interface {
	// Asleep says whether the server sleeps, also if an earlier run caused it.
	Asleep(ctx context.Context) (bool, error)
	Sleep(ctx context.Context) error
	Wake(ctx context.Context) error
}

// A Restarter is a Server that may be started again when it dies.
type Restarter interface {
	// Restarted waits until a server that may have died is healthy again. The error
	// wraps [errors.ErrUnsupported] if nobody starts it again.
	Restarted(ctx context.Context) error
}

// startTries is how often Insist calls its function at most.
const startTries = 4

// Insist calls f, and again if the connection to s is lost and s is restarted. The
// backends use it at their start, before the replicas are watched.
func Insist(ctx context.Context, s Server, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		r, ok := s.(Restarter)
		if !ok || !errors.Is(err, ErrLost) || try == startTries {
			return err
		}
		switch gone := r.Restarted(ctx); {
		case errors.Is(gone, errors.ErrUnsupported):
			return err
		case gone != nil:
			return errors.Join(err, gone)
		}
	}
}

// A Probe is what a server says about itself.
type Probe struct {
	Model string // the base model's name in requests
	Root  string // the path or name that the server loaded it from; empty: unknown
	// Sleeps says that the server, as launched, can sleep. The Server is then a
	// Sleeper.
	Sleeps       bool
	Capabilities sampler.Capabilities
}

// Load counts the requests at a server, including those of other clients.
type Load struct {
	Running int // in computation
	Waiting int // in the server's queue
}

// An Answer is the completion of a server before it is checked.
type Answer struct {
	Model    string // the model that answered, as the server names it
	Prompt   int    // tokens of the prompt that the server read
	IDs      []int32
	Logprobs []float32 // one per id; NaN: the server gave none
	Text     string
	Finish   sampler.FinishReason // empty: another reason
}

var (
	// ErrLost is wrapped by errors without an answer. The request may be sent
	// again.
	ErrLost = errors.New("connection to the server lost")
	// ErrUnknownModel is wrapped if a server does not have the requested model or
	// adapter, for example after a restart.
	ErrUnknownModel = errors.New("the server does not have the model")
	// ErrLoaded is wrapped if the name of an adapter is taken.
	ErrLoaded = errors.New("the server has an adapter of this name")
)
