package main

import (
	"io"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
)

// A run that starts neither a trainer nor a server needs no cache, so HOME may be unset.
func TestSomeRunsNeedNoCache(t *testing.T) {
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "EMPO2_CACHE"} {
		t.Setenv(name, "")
	}
	f := func(needs bool, sets ...string) {
		t.Helper()
		c, err := config.Source{Profile: config.Demo, Sets: sets}.Load()
		if err != nil {
			t.Fatal(err)
		}
		out := newConsole(io.Discard, io.Discard)
		_, err = setUp(t.Context(), c, out, zerolog.Nop())
		if needs != (err != nil) || needs && !strings.Contains(err.Error(), "EMPO2_CACHE") {
			t.Errorf("%v: %v", sets, err)
		}
		d := &doctor{console: out, ctx: t.Context(), config: c}
		if err := d.machine(); needs != (err != nil) {
			t.Errorf("doctor, %v: %v", sets, err)
		}
	}
	f(true)
	f(false, "algorithm.name=adapt", "sampler.backend=openai", "sampler.openai.url=http://h",
		"sampler.served_model_name=m")
	f(false, "algorithm.name=adapt", "sampler.backend=ollama", "sampler.served_model_name=m")
}
