package trainerbridge

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if python := os.Getenv(orphanVar); python != "" {
		orphanMain(python)
	}
	goleak.VerifyTestMain(m)
}
