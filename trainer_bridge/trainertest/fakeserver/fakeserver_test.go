package fakeserver

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post sends a body and returns status and answer.
func post(t *testing.T, s *Server, op, body string) (int, map[string]any) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(s.URL+"/api/v1/"+op, "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%s answers %q", op, text)
	}
	return resp.StatusCode, answer
}

func TestRequestsRunInOrderOfTheirNumbers(t *testing.T) {
	s := New(t, Options{Root: t.TempDir()})
	post(t, s, "create_session", `{}`)
	post(t, s, "create_model", `{}`)
	_, second := post(t, s, "save_weights", `{"model_id":"session:train:0","seq_id":2,"path":"000001"}`)
	if done := s.State().Done; done != 0 {
		t.Fatalf("%d requests ran before the first", done)
	}
	body := `{"model_id":"session:train:0","seq_id":1,"adam_params":{"learning_rate":1}}`
	_, first := post(t, s, "optim_step", body)
	if status, again := post(t, s, "optim_step", body); status != 200 || again["request_id"] != first["request_id"] {
		t.Errorf("repeated: %d %v", status, again)
	}
	if status, _ := post(t, s, "optim_step", `{"model_id":"session:train:0","seq_id":1}`); status != 409 {
		t.Errorf("another request under the same number: status %d", status)
	}
	_, saved := post(t, s, "retrieve_future", `{"request_id":"`+second["request_id"].(string)+`"}`)
	if saved["path"] != "tinker://session:train:0/weights/000001" {
		t.Errorf("saved: %v", saved)
	}
	if diff := cmp.Diff(State{Version: 1, Steps: 1, Done: 2}, s.State()); diff != "" {
		t.Error(diff)
	}
}

func TestLogprobsDependOnEarlierTokensOnly(t *testing.T) {
	a, b := Logprobs(0, []int32{1, 2, 3, 4}), Logprobs(1, []int32{1, 2, 3, 4})
	if len(a) != 3 || cmp.Equal(a, b) {
		t.Errorf("%v and %v", a, b)
	}
	if diff := cmp.Diff(a[:1], Logprobs(0, []int32{1, 2})); diff != "" {
		t.Errorf("the log-probs of a prefix differ in a longer sequence:\n%s", diff)
	}
	for _, lp := range append(a, b...) {
		if lp > -0.05 || lp < -4 {
			t.Errorf("log-prob %v", lp)
		}
	}
}
