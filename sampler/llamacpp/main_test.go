package llamacpp

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// parentEnv turns the test binary into a program that opens a backend and runs until
// it is killed.
const parentEnv = "EMPO2_TEST_PARENT"

func TestMain(m *testing.M) {
	if gguf := os.Getenv(parentEnv); gguf != "" {
		parent(gguf)
		return
	}
	goleak.VerifyTestMain(m)
}

func parent(gguf string) {
	b, err := Open(context.Background(),
		Config{Python: os.Getenv("EMPO2_PYTHON"), BaseGGUF: gguf, Slots: 2, ContextPerSlot: 256})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(b.base.replicas[0].now.server.(*child).PID())
	select {}
}

// pid returns the process id of a version.
func pid(t testing.TB, v *version) int {
	t.Helper()
	r, err := v.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r.server.(*child).PID()
}
