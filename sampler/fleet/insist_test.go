package fleet

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// restarted is a server that is started again with the result err.
type restarted struct {
	fake
	err error
}

func (r *restarted) Restarted(context.Context) error { return r.err }

func TestInsist(t *testing.T) {
	lost := fmt.Errorf("probe: %w", ErrLost)
	refused, gaveUp := errors.New("refused"), errors.New("ended too often")
	f := func(name string, s Server, answers []error, want error, calls int) {
		t.Helper()
		n := 0
		err := Insist(t.Context(), s, func() error { n++; return answers[min(n, len(answers))-1] })
		if !errors.Is(err, want) || n != calls {
			t.Errorf("%s: %v after %d calls, want %v after %d", name, err, n, want, calls)
		}
	}
	f("an answer", &restarted{}, []error{nil}, nil, 1)
	f("lost twice", &restarted{}, []error{lost, lost, nil}, nil, 3)
	f("always lost", &restarted{}, []error{lost}, ErrLost, startTries)
	f("refused after a loss", &restarted{}, []error{lost, refused}, refused, 2)
	f("refused", &restarted{}, []error{refused, nil}, refused, 1)
	f("not started again any more", &restarted{err: gaveUp}, []error{lost, nil}, gaveUp, 1)
	f("started by others", &restarted{err: errors.ErrUnsupported}, []error{lost, nil}, ErrLost, 1)
	f("no restarts", &fake{}, []error{lost, nil}, ErrLost, 1)
}
