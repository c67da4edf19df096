package scienceworld

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// live returns a configuration for the real simulator, or skips the test
// loudly where the jar or Java is missing.
func live(t testing.TB) Config {
	t.Helper()
	if testing.Short() {
		t.Skip("*** NOT RUN: needs a JVM, and -short was given. ***")
	}
	if _, err := findJar(context.Background(), os.Getenv("EMPO2_SCIENCEWORLD_JAR"), ""); err != nil {
		t.Skipf("\n*** NOT RUN: %v ***", err)
	}
	if _, err := findJava(context.Background(), "", true); err != nil {
		t.Skipf("\n*** NOT RUN: %v ***", err)
	}
	return Config{
		Jar: os.Getenv("EMPO2_SCIENCEWORLD_JAR"), Simplifications: "easy", Concurrency: 1, Budget: often,
		Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel),
	}
}

// openLive opens a family that is closed when the test ends.
func openLive(t testing.TB, c Config) *Family {
	t.Helper()
	f, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// children lists our process's JVMs.
func children(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(os.Getpid()), "java").Output()
	if err != nil && len(out) > 0 {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}
