package llamacpp

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/empo2/empo2/sampler"
)

// An accepted answer has as many log-probs as ids, every id is in the vocabulary, and
// every log-prob is unknown or not positive.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"content": "a", "tokens": [1, 2], "model": "m", "stop_type": "limit", "tokens_evaluated": 1,
"completion_probabilities": [{"id": 1, "logprob": -0.5}, {"id": 2, "logprob": null}]}`))
	f.Add([]byte(`{"tokens": [-1], "model": "m", "stop_type": "eos", "tokens_evaluated": 1}`))
	f.Add([]byte(`{"tokens": [9], "model": "m", "stop_type": "eos", "tokens_evaluated": 1,
"completion_probabilities": [{"id": 9, "logprob": 2}]}`))
	const vocabulary = 8
	v := &version{b: &Backend{caps: sampler.Capabilities{VocabSize: vocabulary}}, policy: sampler.Policy{Name: "m"}}
	r := sampler.Request{Prompt: []int32{1}, MaxTokens: 2, Stop: []string{"x"}}
	f.Fuzz(func(t *testing.T, text []byte) {
		var a answer
		if json.Unmarshal(text, &a) != nil {
			return
		}
		c, err := v.read(r, a)
		if err != nil {
			return
		}
		if len(c.Logprobs) != len(c.IDs) || len(c.IDs) == 0 || len(c.IDs) > r.MaxTokens || a.Model != "m" {
			t.Fatalf("%s is accepted", text)
		}
		for i, id := range c.IDs {
			if l := float64(c.Logprobs[i]); id < 0 || id >= vocabulary || l > 0 || math.IsInf(l, 0) {
				t.Fatalf("%s is accepted", text)
			}
		}
	})
}

// Even a damaged header never gives a negative number of parameters.
func FuzzCountParameters(f *testing.F) {
	f.Add([]byte("GGUF\x03\x00\x00\x00"))
	header := "GGUF\x03\x00\x00\x00" + long(1) + long(1) + long(20) + "general.architecture" + "\x08\x00\x00\x00" +
		long(5) + "llama" + long(1) + "a" + "\x02\x00\x00\x00" + long(1<<32) + long(1<<31) + long(0) + long(0)
	f.Add([]byte(header))
	path := filepath.Join(f.TempDir(), "m.gguf")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := countParameters(path); err == nil && found.all < 0 {
			t.Fatalf("%d parameters", found.all)
		}
	})
}

// long is a number of eight bytes.
func long(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
