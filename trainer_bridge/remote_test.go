package trainerbridge_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/trainertest"
)

// elsewhere is the real trainer with a run directory of its own, behind an address that stays the same when it is
// started again.
type elsewhere struct {
	config  trainerbridge.ProcessConfig
	process *trainerbridge.Process
	target  atomic.Pointer[url.URL]
	lose    atomic.Pointer[string] // the operation whose next answer is lost
}

// newElsewhere starts the trainer and returns a suite for a Remote that uses it. front may be another address of it.
func newElsewhere(t *testing.T, front func(url string) string) (*trainerbridge.Remote, trainertest.Suite) {
	t.Helper()
	there := &elsewhere{config: trainerbridge.RealTrainer(t)}
	there.config.Formats, there.config.Token = []string{"peft"}, "token-of-the-trainer"
	there.start(t)
	t.Cleanup(func() { there.process.Close() })
	server := httptest.NewServer(there)
	t.Cleanup(server.Close)
	companion := there.config
	companion.Root, companion.Formats, companion.Token = t.TempDir(), []string{"peft", "gguf"}, ""
	config := client
	config.URL, config.Token = front(server.URL), there.config.Token
	r := &trainerbridge.Remote{Companion: companion, Client: config}
	t.Cleanup(func() { r.Close() })
	suite := trainertest.Suite{Trainer: r, LoseAnswer: func(op string) { there.lose.Store(&op) }}
	suite.Kill = func() {
		syscall.Kill(there.process.Ready().PID, syscall.SIGKILL)
		<-there.process.Exited()
		there.process.Close()
		there.start(t)
	}
	return r, suite
}

func (e *elsewhere) start(t *testing.T) {
	t.Helper()
	process, err := trainerbridge.Start(t.Context(), e.config)
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(process.URL())
	if err != nil {
		t.Fatal(err)
	}
	e.process = process
	e.target.Store(at)
}

// ServeHTTP passes a request on, and drops the connection instead of an answer that is to be lost.
func (e *elsewhere) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	proxy := httputil.NewSingleHostReverseProxy(e.target.Load())
	proxy.ErrorLog = log.New(io.Discard, "", 0) // a killed trainer is no news
	if op := e.lose.Load(); op != nil && strings.HasSuffix(r.URL.Path, "/"+*op) && e.lose.CompareAndSwap(op, nil) {
		proxy.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	proxy.ServeHTTP(w, r)
}

func TestTrainerElsewhereConforms(t *testing.T) {
	r, suite := newElsewhere(t, func(url string) string { return url })
	suite.Run(t)
	if d := r.Deviations(); d != (trainerbridge.Deviations{}) {
		t.Errorf("this project's own trainer deviates: %+v", d)
	}
}

// The loss empo2 is replaced by importance_sampling. The updates must be those of the suite.
func TestTinkerServiceConforms(t *testing.T) {
	r, suite := newElsewhere(t, func(url string) string { return disguise(t, url) })
	suite.Run(t)
	if d := r.Deviations(); !d.NoEmpo2 || !d.NoCheckpoints || d.Mean {
		t.Errorf("the trainer was taken for %+v", d)
	}
}

// A trainer that was started again has no model, whatever its health. Restore gets a new one at once.
func TestAnUntrainedModelIsNotThatOfAnEarlierTrainer(t *testing.T) {
	r, suite := newElsewhere(t, func(url string) string { return url })
	for i := range 2 {
		if i == 1 {
			suite.Kill()
		}
		if err := r.Restore(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Forward(t.Context(), []trainerbridge.Row{onPolicy(1, 10, 11, 12)}); err != nil {
			t.Fatal(err)
		}
	}
}

// disguise is a server in front of this project's trainer that answers like the hosted service: it does not say
// whose trainer it is, and knows neither the loss empo2 nor uploads.
func disguise(t *testing.T, to string) string {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }}
	proxy.ModifyResponse = func(answer *http.Response) error {
		if !strings.HasSuffix(answer.Request.URL.Path, "/get_server_capabilities") {
			return nil
		}
		var text map[string]json.RawMessage
		if err := json.NewDecoder(answer.Body).Decode(&text); err != nil {
			return err
		}
		delete(text, "server")
		out, err := json.Marshal(text)
		answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(out)), int64(len(out))
		answer.Header.Set("Content-Length", "")
		answer.Header.Del("Content-Length")
		return err
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte(`"empo2"`)) && strings.Contains(r.URL.Path, "forward") ||
			strings.Contains(r.URL.Path, "upload") {
			t.Errorf("%s: the service does not know this: %.200s", r.URL.Path, body)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}
