package remote

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs/remote/turns"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// An accepted answer has an observation and a finite reward. A refused one gets an
// error that names the request.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"id": 1, "observation": "a", "reward": 1, "terminated": true, "info": {"success": false}}`))
	f.Add([]byte(`{"observation": {"state": "b"}, "reward": 1e308, "terminated": false, "truncated": true}`))
	f.Add([]byte(`{"error": "x"}`))
	f.Add([]byte(`{"id": null, "observation": null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		check := func(err error) {
			var failure *jsonhttp.Error
			if err != nil && (!errors.As(err, &failure) || !strings.HasPrefix(err.Error(), "POST /")) {
				t.Fatalf("%q", err)
			}
		}
		var first resetAnswer
		check(read(json.RawMessage(text), "/reset", &first))
		var a stepAnswer
		if err := read(json.RawMessage(text), "/step", &a); err != nil {
			check(err)
			return
		}
		var state turns.Turns
		if step, err := state.Next(a.turn()); err == nil && (math.IsNaN(step.Reward) || math.IsInf(step.Reward, 0)) {
			t.Fatalf("the reward %v is accepted", step.Reward)
		}
	})
}
