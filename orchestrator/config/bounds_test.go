package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// inEffect are settings under which a key has an effect. A key that is missing
// here has one by default.
var inEffect = map[string][]string{
	"env.agentgym.timeout_seconds": {"env.name=agentgym", "env.agentgym.url=http://h", "env.agentgym.dialect=webshop",
		"env.agentgym.train=0-1"},
	"env.openenv.timeout_seconds": {"env.name=openenv", "env.openenv.url=http://h"},
	"env.ors.timeout_seconds":     {"env.name=ors", "env.ors.url=http://h"},
	"memory.http.timeout_seconds": {"memory.strategy=http", "memory.http.url=http://h"},
	"sampler.load_timeout_seconds": {"sampler.backend=ollama", "sampler.served_model_name=m",
		"sampler.ollama.url=http://h"},
	"sampler.vllm.gpu_memory_utilization": {"sampler.backend=vllm"},
}

// Every number is refused if it would overflow a duration, a float32 of the
// trainer or a size: no key may be added without a bound.
func TestEveryNumberHasBounds(t *testing.T) {
	for key, info := range keys() {
		var values []string
		switch info.kind {
		case "number":
			values = []string{"1e300", "-1e300", "inf", "-inf", "nan"}
		case "integer":
			values = []string{"9223372036854775807", "-9223372036854775808"}
		}
		for _, value := range values {
			if key == "run.seed" && !strings.HasPrefix(value, "-") {
				continue // every seed is one
			}
			sets := append([]string{"model.path=m"}, inEffect[key]...)
			if _, err := load("", nil, append(sets, key+"="+value)); err == nil {
				t.Errorf("%s = %s was accepted", key, value)
			} else if !strings.Contains(err.Error(), key) {
				t.Errorf("%s = %s: %v", key, value, err)
			}
		}
	}
}

// A deadline of 0 or less would end every call at once.
func TestDeadlinesAreAboveZero(t *testing.T) {
	for key := range keys() {
		if !strings.HasSuffix(key, "timeout_seconds") {
			continue
		}
		sets := append([]string{"model.path=m"}, inEffect[key]...)
		for _, value := range []string{"0", "-1", "1e-9"} {
			_, err := load("", nil, append(sets, key+"="+value))
			if err == nil || !strings.Contains(err.Error(), "a number of seconds from 0.001 to 1000000") {
				t.Errorf("%s = %s: %v", key, value, err)
			}
		}
		if _, err := load("", nil, append(sets, key+"=1000000")); err != nil {
			t.Errorf("%s = 1000000: %v", key, err)
		}
	}
}

// A pipe that nobody closes must not make the program wait for ever.
func TestPipeWithoutAnEnd(t *testing.T) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	defer ours.Close()
	path := fmt.Sprintf("/dev/fd/%d", theirs.Fd())
	if _, err := os.Stat(path); err != nil {
		t.Skip("no /dev/fd here:", err)
	}
	if _, err := readWithin(path, path, 0); err == nil || !strings.Contains(err.Error(), "the pipe has no end") {
		t.Errorf("got %v", err)
	}
	if _, err := ours.WriteString("[run]\nsteps = 7\n"); err != nil {
		t.Fatal(err)
	}
	ours.Close()
	if text, err := ReadText(path, path); err != nil || text != "[run]\nsteps = 7\n" {
		t.Errorf("%q, %v", text, err)
	}
}
