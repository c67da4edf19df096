package remote

import (
	"testing"

	"go.uber.org/goleak"
)

// net/http's server lingers for half a second where a client hung up on it.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}
