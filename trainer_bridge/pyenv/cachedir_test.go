package pyenv

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// The cache is at an absolute path. Where none is known, the error names EMPO2_CACHE.
func TestCacheDir(t *testing.T) {
	f := func(own, xdg, home, want string) {
		t.Helper()
		t.Setenv("EMPO2_CACHE", own)
		t.Setenv("XDG_CACHE_HOME", xdg)
		t.Setenv("HOME", home)
		got, err := CacheDir()
		var fault *Error
		if want == "" {
			if !errors.As(err, &fault) || !strings.Contains(err.Error()+fault.Hint, "EMPO2_CACHE") || fault.Hint == "" {
				t.Errorf("%q %q %q: %q, %v", own, xdg, home, got, err)
			}
			return
		}
		if err != nil || got != want {
			t.Errorf("%q %q %q: %q, %v; want %q", own, xdg, home, got, err, want)
		}
	}
	dir := t.TempDir()
	t.Chdir(dir)
	f("/cache", "", "", "/cache")
	f("cache", "", "", filepath.Join(dir, "cache"))
	f("~/cache", "", "/home/me", "")
	f("", "", "", "")
	f("", "relative", "/home/me", "")
	f("", "", "relative", "")
}
