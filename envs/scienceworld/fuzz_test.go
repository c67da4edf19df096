package scienceworld

import "testing"

// An accepted task id is written in the same way.
func FuzzVariant(f *testing.F) {
	f.Add("boil/variation-3")
	f.Add("boil/variation-03")
	f.Add("/variation--1")
	f.Fuzz(func(t *testing.T, id string) {
		if v, err := parseVariant(id); err == nil && v.String() != id {
			t.Fatalf("%q becomes %q", id, v)
		}
	})
}
