package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/chat"
)

// Tokenize implements [Server].
func (c *Client) Tokenize(ctx context.Context, text string) ([]int32, error) {
	var answer struct {
		Tokens []int32 `json:"tokens"`
	}
	err := c.Call(ctx, "/tokenize", map[string]any{"prompt": text, "add_special_tokens": false}, &answer)
	if jsonhttp.Status(err) == http.StatusNotFound {
		return nil, fmt.Errorf("%w: no /tokenize", errors.ErrUnsupported)
	}
	return answer.Tokens, err
}

// CompareTokenizers returns an error if a replica has another tokenizer than the
// model, and thus serves another model under the same name. Nil compares the
// replicas with the first one. Each request has the deadline RequestTimeout.
func (b *Backend) CompareTokenizers(ctx context.Context, own chat.Tokenizer) error {
	servers := b.cfg.Servers
	if own == nil {
		own, servers = withDeadline{b, servers[0]}, servers[1:]
	}
	for _, s := range servers {
		end := watchdog.Begin(ctx, "server", "compare its tokenizer with the model's: "+safetext.URL(s.URL()), 0)
		err := Insist(ctx, s, func() error { return b.compareTokenizer(ctx, own, s) })
		end()
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			b.cfg.Log.Warn().Str("server", s.URL()).
				Msg("the server cannot tokenize, so its tokenizer is not compared with the model's; the canary compares both")
		case err != nil:
			return err
		}
	}
	return nil
}

func (b *Backend) compareTokenizer(ctx context.Context, own chat.Tokenizer, s Server) error {
	d, err := chat.CompareTokenizers(ctx, own, withDeadline{b, s})
	if err != nil || d == nil {
		return err
	}
	return fmt.Errorf("wrong model on the server: %s serves %s (%s): %v\n"+
		"  hint: serve the model that model.path names, on every replica", s.URL(), b.probe.Model, b.probe.Root, d)
}

// withDeadline is a server's tokenizer.
type withDeadline struct {
	b *Backend
	s Server
}

func (w withDeadline) Tokenize(ctx context.Context, text string) ([]int32, error) {
	limit := w.b.cfg.RequestTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	return w.s.Tokenize(ctx, text)
}
