package process

import (
	"slices"
	"strings"
	"testing"
)

func TestFillPlaceholders(t *testing.T) {
	command := []string{"vllm", "serve", "{model}", "--port={port}"}
	got := FillPlaceholders(command, map[string]string{"model": "m", "port": "1"})
	if strings.Join(got, " ") != "vllm serve m --port=1" {
		t.Error(got)
	}
	if !HasPlaceholder(command, "port") || HasPlaceholder(command, "key") {
		t.Errorf("placeholders of %v", command)
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

func TestServerBudget(t *testing.T) {
	for restarts, want := range map[int]int{0: 3, 5: 5} {
		if got := ServerBudget(restarts).Restarts; got != want {
			t.Errorf("%d: %d, want %d", restarts, got, want)
		}
	}
	b := ServerBudget(-1)
	if b.Next(t.Context()) == nil {
		t.Error("a budget without restarts allowed one")
	}
}
