package main

import (
	"bytes"
	"fmt"
	"os"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	faketrainer "github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

// startElsewhere starts a fake trainer that needs the token "key-of-the-trainer", unless it is a SkyRL server, which
// knows no tokens. Its answer to the second optimizer step is lost.
func startElsewhere(ts *testscript.TestScript, kind string) {
	tb := &processTB{}
	if root := ts.MkAbs("elsewhere-" + kind); os.MkdirAll(root, 0o755) != nil {
		ts.Fatalf("%s cannot be made", root)
	}
	var mu sync.Mutex
	steps := 0
	options := faketrainer.Options{Root: ts.MkAbs("elsewhere-" + kind), Logprobs: scripted().Score, SkyRL: kind == "skyrl",
		Token: "key-of-the-trainer"}
	if options.SkyRL {
		options.Token = ""
	}
	options.Fault = func(c faketrainer.Call) faketrainer.Fault {
		mu.Lock()
		defer mu.Unlock()
		if c.Op != "optim_step" || bytes.Contains(c.Body, []byte(`"learning_rate":0,`)) { // measures the scale of gradients
			return faketrainer.Fault{}
		}
		steps++
		return faketrainer.Fault{Lose: steps == 2}
	}
	server := faketrainer.New(tb, options)
	ts.Defer(server.Close)
	ts.Defer(func() { ts.Check(os.RemoveAll(options.Root)) })
	text := fmt.Sprintf("[trainer]\nurl = %q\n", server.URL)
	ts.Check(os.WriteFile(ts.MkAbs("url.toml"), []byte(text), 0o644))
}
