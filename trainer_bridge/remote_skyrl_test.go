package trainerbridge_test

import (
	"os"
	"testing"
	"time"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/trainertest"
)

// The server is started by scripts/test-skyrl, which sets these variables: its address, and the folder of its model.
func TestSkyRLConforms(t *testing.T) {
	url, model := os.Getenv("EMPO2_SKYRL_URL"), os.Getenv("EMPO2_SKYRL_MODEL")
	if url == "" || model == "" {
		t.Skip("no SkyRL server: scripts/test-skyrl starts one")
	}
	companion := trainerbridge.RealTrainer(t)
	companion.Model = model
	r := &trainerbridge.Remote{Companion: companion, Client: trainerbridge.ClientConfig{URL: url, Rank: 4, Alpha: 8,
		Seed: 1, Timeout: 5 * time.Minute}}
	t.Cleanup(func() { r.Close() })
	trainertest.Suite{Trainer: r}.Run(t)
}
