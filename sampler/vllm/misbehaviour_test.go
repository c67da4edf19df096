package vllm

import (
	"testing"

	"github.com/empo2/empo2/sampler/fleet/fleettest"
)

func TestMisbehaviour(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, c fleettest.Config) fleettest.Fleet {
		servers, urls := fakes(t, c.Replicas)
		f := fleettest.Fleet{}
		for i, s := range servers {
			f.Engines = append(f.Engines, &s.Engine)
			if c.Prepare != nil {
				c.Prepare(i, &s.Engine)
			}
		}
		cfg := config(urls)
		cfg.OnReturn, cfg.Tolerance = c.OnReturn, c.Tolerance
		if c.RequestTimeout > 0 {
			cfg.RequestTimeout = c.RequestTimeout
		}
		if c.Patience > 0 {
			cfg.Patience = c.Patience
		}
		f.Backend = openFake(t, cfg)
		return f
	})
}
