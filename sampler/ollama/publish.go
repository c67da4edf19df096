package ollama

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/ollama/ollama/api"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// cleanupTimeout is the deadline of the requests that Close sends.
const cleanupTimeout = 10 * time.Second

// A version is one model of the server.
type version struct {
	policy sampler.Policy
	digest string // of its adapter; empty for the base

	gate *admission.Gate // closed when the version is retired
}

// policy returns the policy of a version. The base model has its own name.
func (b *Backend) policy(n int) sampler.Policy {
	if n == 0 {
		return sampler.Policy{Name: b.cfg.Model}
	}
	return sampler.Policy{Version: n, Name: fmt.Sprintf("%s:v%06d", b.cfg.Alias, n)}
}

// Publish uploads the adapter, creates a model from it and the base, checks
// that the model has exactly this adapter, and samples one token. Version 0 is
// always the base model.
func (b *Backend) Publish(ctx context.Context, a sampler.Adapter) (sampler.Policy, error) {
	p := b.policy(a.Version)
	started := time.Now()
	ctx, end := sampler.Within(ctx, b.alive)
	defer end()
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.PublishTimeout,
		fmt.Errorf("not done within %v", b.cfg.PublishTimeout))
	defer cancel()
	fresh, err := b.publish(ctx, p, a)
	if err != nil {
		return sampler.Policy{}, fmt.Errorf("publish %s: %w", p.Name, err)
	}
	if fresh {
		took := time.Since(started).Round(time.Millisecond)
		b.cfg.Log.Info().Int("version", p.Version).Stringer("took", took).Msg("policy published")
	}
	return p, nil
}

func (b *Backend) publish(ctx context.Context, p sampler.Policy, a sampler.Adapter) (fresh bool, err error) {
	turn, err := b.publishing.Acquire(ctx, admission.Request{})
	if err != nil {
		return false, err
	}
	defer turn.Release()
	digest, err := adapterDigest(a)
	if err != nil {
		return false, err
	}
	if done, err := b.published(p, digest); done || err != nil {
		return false, err
	}
	if p.Version > 0 {
		if err = a.Check(); err == nil {
			err = b.create(ctx, p, a.GGUF, digest)
		}
	}
	if err == nil {
		err = b.load(ctx, p)
	}
	if err != nil {
		return false, errors.Join(err, b.withdraw(ctx, p))
	}
	if !b.serve(&version{policy: p, digest: digest, gate: admission.NewGate()}) {
		return false, errors.Join(errClosed, b.withdraw(ctx, p))
	}
	return true, nil
}

// serve makes a version usable. It returns false if the backend is closed.
func (b *Backend) serve(v *version) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.versions[v.policy.Version] = v
	}
	return !b.closed
}

// published says whether p is already served.
func (b *Backend) published(p sampler.Policy, digest string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.versions[p.Version]
	switch {
	case b.closed:
		return false, errClosed
	case v == nil:
		return false, nil
	case v.gate.Closed():
		return false, errors.New("it is being retired")
	case v.digest != digest:
		return false, fmt.Errorf("it is already served with another adapter (%.19s)", v.digest)
	}
	return true, nil
}

// adapterDigest returns the name of the adapter's blob, empty for the base model.
func adapterDigest(a sampler.Adapter) (string, error) {
	switch {
	case a.Version == 0:
		return "", nil
	case a.Version < 0:
		return "", fmt.Errorf("version %d is negative", a.Version)
	case a.GGUF == "":
		return "", errors.New("the adapter has no GGUF file\n  hint: the trainer must write adapters as GGUF")
	}
	f, err := os.Open(a.GGUF)
	if err != nil {
		return "", fmt.Errorf("adapter: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != "GGUF" {
		return "", fmt.Errorf("adapter %s is not a GGUF file", a.GGUF)
	}
	sum := sha256.New()
	sum.Write(magic)
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("adapter %s: %w", a.GGUF, err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// create creates the model and checks that it has only this adapter. A model that
// is created from a model with an adapter has both (server/model.go).
func (b *Backend) create(ctx context.Context, p sampler.Policy, file, digest string) error {
	upload := func() error { return b.upload(ctx, file, digest) }
	if err := b.client.try(ctx, upload, b.countRetry("upload", p)); err != nil {
		return fmt.Errorf("upload the adapter: %w", err)
	}
	stream := false
	request := api.CreateRequest{Model: p.Name, From: b.cfg.Model, Adapters: map[string]string{"adapter.gguf": digest},
		Stream: &stream}
	var answer api.ProgressResponse
	err := b.client.try(ctx, func() error { return b.client.call(ctx, "POST", "/api/create", request, &answer) },
		b.countRetry("create", p))
	switch {
	case err != nil:
		return fmt.Errorf("create: %w", err)
	case answer.Status != "success":
		return fmt.Errorf("create: the server says %q", answer.Status)
	}
	shown, err := b.show(ctx, p.Name)
	if err != nil {
		return fmt.Errorf("show the new model: %w", err)
	}
	hash := strings.TrimPrefix(digest, "sha256:")
	if n := adapters(shown.Modelfile); n != 1 || !strings.Contains(shown.Modelfile, hash) {
		return fmt.Errorf("the server shows %d adapters, want one with hash %.12s\n"+
			"  hint: check that %s is a model without an adapter", n, hash, b.cfg.Model)
	}
	return nil
}

// upload sends the adapter, unless the server has it.
func (b *Backend) upload(ctx context.Context, file, digest string) error {
	path := "/api/blobs/" + digest
	err := b.client.call(ctx, "HEAD", path, nil, nil)
	if jsonhttp.Status(err) != http.StatusNotFound {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	return b.client.upload(ctx, path, f)
}

// load makes the server load a model, after the requests of other models.
func (b *Backend) load(ctx context.Context, p sampler.Policy) error {
	q := input{text: "\n"}
	_, err := b.send(ctx, p, sampler.Request{MaxTokens: 1}, q)
	return err
}

// countRetry returns a function that counts and logs a retry.
func (b *Backend) countRetry(op string, p sampler.Policy) func(error) {
	return func(err error) {
		b.counters.Update(func(s *Stats) { s.Retries++ })
		b.cfg.Log.Warn().Err(err).Str("op", op).Str("policy", p.Name).Msg("ollama: sending the request again")
	}
}

// withdraw removes a model that could not be published, also if ctx has ended.
func (b *Backend) withdraw(ctx context.Context, p sampler.Policy) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), cleanupTimeout, errors.New("remove took too long"))
	defer cancel()
	return b.remove(ctx, p)
}

// remove deletes the model of a version, except the base model.
func (b *Backend) remove(ctx context.Context, p sampler.Policy) error {
	if p.Version == 0 {
		return nil
	}
	err := b.client.try(ctx, func() error {
		return b.client.call(ctx, "DELETE", "/api/delete", api.DeleteRequest{Model: p.Name}, nil)
	}, nil)
	if jsonhttp.Status(err) == http.StatusNotFound {
		return nil
	}
	return err
}

// unload releases the server's memory. The model of the last request is loaded,
// because requests have keep_alive −1.
func (b *Backend) unload(ctx context.Context) {
	model := b.turns.Class()
	if model == "" {
		return
	}
	stream := false
	body := api.GenerateRequest{Model: model, KeepAlive: &api.Duration{}, Stream: &stream}
	if err := b.client.call(ctx, "POST", "/api/generate", body, nil); err != nil {
		b.cfg.Log.Debug().Err(err).Msg("ollama: unload")
	}
}

// Retire refuses new requests for p, waits for those in flight and removes the
// model. If ctx ends first, Close removes the model.
func (b *Backend) Retire(ctx context.Context, p sampler.Policy) error {
	b.mu.Lock()
	v := b.versions[p.Version]
	if v == nil || v.policy != p {
		b.mu.Unlock()
		return nil
	}
	v.gate.Close()
	b.mu.Unlock()
	if err := v.gate.Drain(ctx); err != nil {
		return fmt.Errorf("retire %s: requests in flight: %w", p.Name, err)
	}
	if err := b.remove(ctx, p); err != nil {
		return fmt.Errorf("retire %s: %w", p.Name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.versions[p.Version] == v {
		delete(b.versions, p.Version)
	}
	return nil
}
