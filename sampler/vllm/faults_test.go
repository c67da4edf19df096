package vllm

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/empo2/empo2/sampler/fleet"
	"github.com/empo2/empo2/sampler/fleet/fleettest"
)

func TestFaultsOfServers(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, c fleettest.Config) fleettest.Fleet {
		servers, urls := fakes(t, c.Replicas)
		f := fleettest.Fleet{}
		for _, s := range servers {
			f.Engines = append(f.Engines, &s.Engine)
		}
		c.PrepareAll(f.Engines)
		cfg := config(urls)
		cfg.OnReturn, cfg.Tolerance = c.OnReturn, c.Tolerance
		c.SetDeadlines(&cfg.RequestTimeout, &cfg.Patience)
		f.Backend = openFake(t, cfg)
		return f
	})
}

// A request that the server has aborted is sent again. The replica is not at fault.
func TestAborts(t *testing.T) {
	for reason, lost := range map[string]bool{"abort": true, "error": true, "stop": false, "length": false} {
		var c completion
		text := `{"choices": [{"text": "", "finish_reason": "` + reason + `", "token_ids": []}]}`
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		if _, err := c.read(); errors.Is(err, fleet.ErrLost) != lost {
			t.Errorf("%s: %v", reason, err)
		}
	}
}
