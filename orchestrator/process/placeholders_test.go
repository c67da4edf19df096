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
	for range 20 { // the order of a map's keys changes
		got = FillPlaceholders([]string{"{model}", "{port}"}, map[string]string{"model": "/a{port}", "port": "{model}"})
		if strings.Join(got, " ") != "/a{port} {model}" {
			t.Fatal(got)
		}
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
