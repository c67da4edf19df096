package launch

import (
	"slices"
	"strings"
	"testing"
)

func TestFill(t *testing.T) {
	got := Fill([]string{"vllm", "serve", "{model}", "--port={port}"}, map[string]string{"model": "m", "port": "1"})
	if strings.Join(got, " ") != "vllm serve m --port=1" {
		t.Error(got)
	}
}

func TestFreePortsAreDifferent(t *testing.T) {
	ports, err := FreePorts(50)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ports)
	if len(slices.Compact(ports)) != 50 || ports[0] == 0 {
		t.Error(ports)
	}
}

func TestRestarts(t *testing.T) {
	for most, want := range map[int]int{0: 3, 5: 5} {
		if got := Restarts(most).Restarts; got != want {
			t.Errorf("%d: %d, want %d", most, got, want)
		}
	}
	b := Restarts(-1)
	if b.Next(t.Context()) == nil {
		t.Error("a server that must not be restarted may be")
	}
}
