package main

import (
	"maps"
	"reflect"
	"slices"
	"strings"
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

// The names that servers get have only characters that all of them allow, and
// runs with different names have different ones.
func TestServerNames(t *testing.T) {
	seen := map[string]string{}
	for _, run := range []string{"try-1", "try 1", "try_1", "try#1", "try/1", "try?1", "Versuch-ä", "Versuch-ö",
		strings.Repeat("n", 199), strings.Repeat("n", 200)} {
		name := serverName(run)
		if before, ok := seen[name]; ok || len(name) > 64 || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"+
			"abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			t.Errorf("%q is called %q, as %q is", run, name, before)
		}
		seen[name] = run
	}
	if serverName("vault-2.b_c") != "vault-2.b_c" {
		t.Error("a plain name is changed")
	}
}
