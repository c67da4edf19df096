package main

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator/config"
)

// Every table of [sampler] belongs to a backend, and every backend has a table.
func TestEveryBackendOfTheConfigurationCanBeOpened(t *testing.T) {
	var tables []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[config.Sampler]()) {
		if f.Type.Kind() == reflect.Struct {
			tables = append(tables, f.Tag.Get("toml"))
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(tables)), slices.Sorted(maps.Keys(backends))); diff != "" {
		t.Error(diff)
	}
	for name, b := range backends {
		c := load(t)
		c.Sampler.Backend = name
		if b.open == nil || sampleTimeout(c) <= 0 {
			t.Errorf("%s: %+v", name, b)
		}
	}
}
