package vllm

import (
	"testing"

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
