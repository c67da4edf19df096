package trainerbridge

import (
	"testing"

	"github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

// A step with tokens of version 0 is scored under version 0. The trainer keeps one adapter
// however often that happens.
func TestARestoreOfVersion0LeavesNoAdapterBehind(t *testing.T) {
	s := fakeserver.New(t, fakeserver.Options{})
	l := local(t, s)
	l.Process.Root = s.Root
	if err := l.Restore(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for version := 1; version <= 3; version++ {
		if err := l.Save(t.Context(), version); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{version, 0, version} {
			if err := l.Restore(t.Context(), n); err != nil {
				t.Fatalf("restore version %d: %v", n, err)
			}
		}
		if n := s.Models(); n != 1 {
			t.Errorf("after version %d: the trainer has %d adapters", version, n)
		}
	}
	if n := s.Count("unload_model"); n != 3 {
		t.Errorf("%d adapters were unloaded", n)
	}
}
