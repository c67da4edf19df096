package trainerbridge_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/trainertest"
)

// elsewhere starts the real trainer with a run directory of its own and returns a Remote for it. front may be another
// address of the same trainer.
func elsewhere(t *testing.T, front func(url string) string) *trainerbridge.Remote {
	t.Helper()
	there := trainerbridge.RealTrainer(t)
	there.Formats = []string{"peft"}
	process, err := trainerbridge.Start(t.Context(), there)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Close() })
	companion := there
	companion.Root, companion.Formats = t.TempDir(), []string{"peft", "gguf"}
	config := client
	config.URL, config.Token = front(process.URL()), process.Token()
	r := &trainerbridge.Remote{Companion: companion, Client: config}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestTrainerElsewhereConforms(t *testing.T) {
	r := elsewhere(t, func(url string) string { return url })
	trainertest.Suite{Trainer: r}.Run(t)
	if d := r.Deviations(); d != (trainerbridge.Deviations{}) {
		t.Errorf("this project's own trainer deviates: %+v", d)
	}
}

// The loss empo2 is replaced by importance_sampling. The updates must be those of the suite.
func TestTinkerServiceConforms(t *testing.T) {
	r := elsewhere(t, func(url string) string { return disguise(t, url) })
	trainertest.Suite{Trainer: r}.Run(t)
	if d := r.Deviations(); !d.NoEmpo2 || !d.NoCheckpoints || d.Mean {
		t.Errorf("the trainer was taken for %+v", d)
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

var _ = time.Second
