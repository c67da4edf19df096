package fleet

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/empo2/empo2/sampler"
)

// An accepted answer has as many log-probs as ids, every id is in the vocabulary, and
// every log-prob that is known is finite and not positive.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 2}, []byte{0xbf, 0, 0, 0, 0xbf, 0, 0, 0}, 1, "stop", "m")
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, []byte{0x7f, 0xc0, 0, 0}, 1, "length", "m")
	f.Add([]byte{0, 0, 0, 9}, []byte{0x3f, 0x80, 0, 0}, 1, "stop", "other")
	const vocabulary = 8
	b := &Backend{probe: Probe{Capabilities: sampler.Capabilities{VocabSize: vocabulary}}}
	v := &version{policy: sampler.Policy{Name: "m"}}
	q := sampler.Request{Prompt: []int32{1}, MaxTokens: 2}
	f.Fuzz(func(t *testing.T, ids, logprobs []byte, prompt int, finish, model string) {
		a := Answer{Model: model, Prompt: prompt, Finish: sampler.FinishReason(finish)}
		for ; len(ids) >= 4; ids = ids[4:] {
			a.IDs = append(a.IDs, int32(binary.BigEndian.Uint32(ids)))
		}
		for ; len(logprobs) >= 4; logprobs = logprobs[4:] {
			a.Logprobs = append(a.Logprobs, math.Float32frombits(binary.BigEndian.Uint32(logprobs)))
		}
		c, err := b.read(v, q, a)
		if err != nil {
			return
		}
		if len(c.Logprobs) != len(c.IDs) || len(c.IDs) == 0 || len(c.IDs) > q.MaxTokens || model != "m" || prompt != 1 {
			t.Fatalf("%+v is accepted", a)
		}
		for i, id := range c.IDs {
			if l := float64(c.Logprobs[i]); id < 0 || id >= vocabulary || l <= impossible || l > 0 {
				t.Fatalf("%+v is accepted", a)
			}
		}
	})
}
