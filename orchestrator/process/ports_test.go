package process

import (
	"errors"
	"slices"
	"testing"
)

func TestAServerWhosePortIsTakenGetsAnother(t *testing.T) {
	f := func(want int, texts ...string) {
		t.Helper()
		var before []int
		calls := 0
		err := OnFreePorts(2, func(ports []int) error {
			if len(ports) != 2 || ports[0] == ports[1] || ports[0] <= 0 || slices.Equal(ports, before) {
				t.Errorf("ports %v, before %v", ports, before)
			}
			before = ports
			calls++
			if text := texts[min(calls, len(texts))-1]; text != "" {
				return errors.New(text)
			}
			return nil
		})
		if last := texts[min(calls, len(texts))-1]; calls != want || (err != nil) != (last != "") {
			t.Errorf("%q: %d starts, %v", texts, calls, err)
		}
	}
	f(1, "")
	f(2, "OSError: [Errno 98] Address already in use", "")
	f(3, "listen tcp 127.0.0.1:1: bind: address already in use")
	f(2, "bind: Only one usage of each socket address (protocol/network address/port) is normally permitted.", "no GPU")
	f(1, "no GPU")
}
