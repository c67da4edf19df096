package trainerbridge_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/trainertest"
	"github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

var client = trainerbridge.ClientConfig{Rank: 4, Alpha: 8, Seed: 1, Timeout: time.Minute,
	AnswerTimeout: 10 * time.Second}

func TestFakeTrainerConforms(t *testing.T) {
	var mu sync.Mutex
	lose := ""
	server := fakeserver.New(t, fakeserver.Options{Fault: func(c fakeserver.Call) fakeserver.Fault {
		mu.Lock()
		defer mu.Unlock()
		if c.Op != lose {
			return fakeserver.Fault{}
		}
		lose = ""
		return fakeserver.Fault{Lose: true}
	}})
	l := &trainerbridge.Local{Process: announce(t, server), Client: client}
	suite := conform(t, l)
	suite.LoseAnswer = func(op string) {
		mu.Lock()
		defer mu.Unlock()
		lose = op
	}
	suite.Run(t)
}

func TestRealTrainerConforms(t *testing.T) {
	conform(t, &trainerbridge.Local{Process: trainerbridge.RealTrainer(t), Client: client}).Run(t)
}

// Two ranks are one trainer. The death of either is the death of the trainer.
func TestRealTrainerOfTwoRanksConforms(t *testing.T) {
	l := &trainerbridge.Local{Process: trainerbridge.RealTrainer(t), Client: client}
	l.Process.GPUs, l.Process.Device, l.Process.Parallel = 2, "cpu", "data"
	suite := conform(t, l)
	kills := 0
	suite.Kill = func() {
		pid := l.Followers()[0]
		if kills++; kills%2 == 0 {
			pid = l.PID()
		}
		syscall.Kill(pid, syscall.SIGKILL)
		<-l.Exited()
	}
	suite.Run(t)
	if kills == 0 {
		t.Error("no rank was killed")
	}
}

func conform(t *testing.T, l *trainerbridge.Local) trainertest.Suite {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	return trainertest.Suite{Trainer: l, Kill: func() {
		syscall.Kill(l.PID(), syscall.SIGKILL)
		<-l.Exited()
	}}
}

// announce writes a shell script in place of Python. It prints the address of
// the fake trainer.
func announce(t *testing.T, server *fakeserver.Server) trainerbridge.ProcessConfig {
	t.Helper()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(t.TempDir(), "python")
	text := fmt.Sprintf("#!/bin/sh\n"+
		`echo '{"event":"ready","port":%s,"pid":'$$',"model":"/model","vocab_size":64}'`+"\ncat >/dev/null\n",
		at.Port())
	if err := os.WriteFile(python, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return trainerbridge.ProcessConfig{Python: python, SourceDir: filepath.Dir(python), Model: "/model",
		Root: server.Root}
}
