package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
	faketrainer "github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

// The scenarios run the real command against two fakes: a vLLM server in the
// test's process and a trainer process, which empo2 starts because EMPO2_PYTHON
// names fakePython. Both follow one scripted policy, so the canary passes.

var (
	stateText = regexp.MustCompile(`Levers: ([a-z, ]+)\. Door \d+ of \d+ is ([a-z]+)\.`)
	adviceRE  = regexp.MustCompile(`at ([a-z]+) pull ([a-z]+)`)
)

// scripted is the policy: it pulls the lever that a tip names, or any lever. A
// tip names the lever that it pulled last.
func scripted() samplertest.Policy {
	tokenizer := samplertest.NewTokenizer()
	return samplertest.Policy{Tokenizer: tokenizer, Script: func(_ int, prompt []int32) []samplertest.Choice {
		messages := tokenizer.Messages(prompt)
		last := tokenizer.LastUser(prompt)
		state := stateText.FindStringSubmatch(last)
		if strings.Contains(last, "Write one tip") {
			return []samplertest.Choice{{Text: lastPull(messages), Weight: 1}}
		}
		if state == nil { // probes of the backend
			return []samplertest.Choice{{Text: "pull", Weight: 1}}
		}
		advised := ""
		for _, m := range messages {
			for _, a := range adviceRE.FindAllStringSubmatch(m.Text, -1) {
				if a[1] == state[2] {
					advised = a[2]
				}
			}
		}
		var choices []samplertest.Choice
		for _, lever := range strings.Split(state[1], ", ") {
			weight := 1.0
			if lever == advised {
				weight = 20
			}
			choices = append(choices, samplertest.Choice{Text: "pull " + lever, Weight: weight})
		}
		return choices
	}}
}

func lastPull(messages []samplertest.ChatMessage) string {
	tip := "try all levers"
	for i, m := range messages[:len(messages)-1] {
		state := stateText.FindStringSubmatch(m.Text)
		if lever, ok := strings.CutPrefix(messages[i+1].Text, "pull "); ok && state != nil {
			tip = "at " + state[2] + " pull " + lever
		}
	}
	return tip
}

// processTB lets a fake run outside a test.
type processTB struct {
	testing.TB
	cleanups []func()
}

func (p *processTB) Helper()          {}
func (p *processTB) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }

// fakePython acts as the interpreter of the trainer's environment.
func fakePython() {
	if err := runFakePython(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fake python:", err)
		os.Exit(1)
	}
}

func runFakePython(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "-c":
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"path": os.Args[0], "version": "3.13.1", "venv": true})
	case len(args) > 2 && args[0] == "-c": // which packages are installed: all
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"missing": []string{}})
	case len(args) > 3 && args[1] == "empo2_trainer" && (args[2] == "serve" || args[2] == "companion"):
		return serveFakeTrainer(args[3:])
	case len(args) > 3 && args[1] == "empo2_trainer" && args[2] == "merge":
		return fakeMerge(args[3:])
	}
	return fmt.Errorf("unexpected arguments %q", args)
}

// serveFakeTrainer serves until its standard input ends, as the trainer does.
func serveFakeTrainer(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	root, model := flags.String("root", "", ""), flags.String("model", "", "")
	for _, ignored := range []string{"host", "port", "seed", "threads", "dtype", "quantize", "device", "formats",
		"micro-batch-tokens", "memory-share"} {
		flags.String(ignored, "", "")
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	tb := &processTB{}
	s := faketrainer.New(tb, faketrainer.Options{
		Root: *root, Token: os.Getenv("EMPO2_TRAINER_TOKEN"), Logprobs: scripted().Score,
	})
	at, err := url.Parse(s.URL)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(at.Port())
	if err != nil {
		return err
	}
	err = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"event": "ready", "port": port, "pid": os.Getpid(), "model": *model,
		"vocab_size": samplertest.NewTokenizer().VocabSize(),
	})
	_, eof := io.Copy(io.Discard, os.Stdin)
	for _, f := range tb.cleanups {
		f()
	}
	return errors.Join(err, eof)
}

// fakeVLLM is a fake vLLM server as a process: fakevllm PORT. It serves until it
// is killed.
func fakeVLLM() {
	v := fakeserver.NewVLLM(scripted())
	err := http.ListenAndServe("127.0.0.1:"+os.Args[1], v.Config.Handler)
	fmt.Fprintln(os.Stderr, "fake vllm:", err)
	os.Exit(1)
}

// fakeMerge writes a model folder like the trainer's command, with the base's files.
func fakeMerge(args []string) error {
	flags := flag.NewFlagSet("merge", flag.ContinueOnError)
	model, out, about := flags.String("model", "", ""), flags.String("out", "", ""), flags.String("about", "", "")
	adapter := flags.String("adapter", "", "")
	flags.String("dtype", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(*adapter, "manifest.json")); err != nil {
		return err
	}
	if err := os.CopyFS(*out, os.DirFS(*model)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "warmstart.json"), []byte(*about), 0o644)
}

// heldServer is a fake vLLM server that can hold requests.
type heldServer struct {
	*fakeserver.VLLM

	mu     sync.Mutex
	answer int           // requests to answer before the others are held; -1: all
	suffix string        // of the models whose requests count
	held   chan struct{} // closed when a request is held
}

func newHeldServer() *heldServer {
	s := &heldServer{VLLM: fakeserver.NewVLLM(scripted()), answer: -1}
	s.Fault = func(r fakeserver.CompletionRequest) samplertest.Fault {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.answer < 0 || !strings.HasSuffix(r.Model, s.suffix):
			return ""
		case s.answer > 0:
			s.answer--
			return ""
		}
		select {
		case <-s.held:
		default:
			close(s.held)
		}
		return samplertest.FaultHang
	}
	return s
}

// hold answers n more requests of the models with a suffix and holds the
// others.
func (s *heldServer) hold(n int, suffix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.suffix, s.held = n, suffix, make(chan struct{})
}

// withFakes points the command at the fakes: server.toml is a configuration
// file to add to the scenario's own.
func withFakes(e *testscript.Env) error {
	python, err := exec.LookPath("fakepython")
	if err != nil {
		return err
	}
	server := newHeldServer()
	e.Defer(server.Close)
	e.Values[serverKeyOfScript{}] = server
	e.Setenv("EMPO2_CACHE", filepath.Join(e.WorkDir, "cache"))
	e.Setenv("EMPO2_PYTHON", python)
	environment := httptest.NewServer(alternating())
	e.Defer(environment.Close)
	e.Setenv("ENVIRONMENT", environment.URL)
	url := fmt.Sprintf("[env.remote]\nurl = %q\n", environment.URL)
	if err := os.WriteFile(filepath.Join(e.WorkDir, "url.toml"), []byte(url), 0o644); err != nil {
		return err
	}
	text := fmt.Sprintf("[sampler.vllm]\nurls = [%q]\n", server.URL)
	return os.WriteFile(filepath.Join(e.WorkDir, "server.toml"), []byte(text), 0o644)
}

type serverKeyOfScript struct{}

// scenarioCommands are further commands of the scenarios.
var scenarioCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// answer N MODEL: the server answers N requests of models whose names end
	// with MODEL and holds the others.
	"answer": func(ts *testscript.TestScript, _ bool, args []string) {
		n, err := strconv.Atoi(args[0])
		ts.Check(err)
		serverOf(ts).hold(n, args[1])
	},
	// flip FILE: flip a bit in every 1,000th byte of a file, and in its last one.
	"flip": func(ts *testscript.TestScript, _ bool, args []string) {
		path := ts.MkAbs(args[0])
		text, err := os.ReadFile(path)
		ts.Check(err)
		for i := len(text) - 1; i >= 0; i -= 1000 {
			text[i] ^= 1
		}
		ts.Check(os.WriteFile(path, text, 0o600))
	},
	// events FOLDER TAG...: the event file in a folder has these tags.
	"events": func(ts *testscript.TestScript, _ bool, args []string) {
		files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "events.out.tfevents.*.empo2"))
		ts.Check(err)
		if len(files) != 1 {
			ts.Fatalf("%d event files in %s", len(files), args[0])
		}
		text := ts.ReadFile(files[0])
		for _, tag := range args[1:] {
			if !strings.Contains(text, tag) {
				ts.Fatalf("no %s in %s", tag, files[0])
			}
		}
	},
	// trainer KIND: start a trainer elsewhere, and write its address into url.toml. KIND is empo2 or skyrl.
	"trainer": func(ts *testscript.TestScript, _ bool, args []string) { startElsewhere(ts, args[0]) },
	// held: wait until the server holds a request.
	"held": func(ts *testscript.TestScript, _ bool, _ []string) { <-serverOf(ts).held },
	// release: the server answers all further requests.
	"release": func(ts *testscript.TestScript, _ bool, _ []string) { serverOf(ts).hold(-1, "") },
}

func serverOf(ts *testscript.TestScript) *heldServer {
	return ts.Value(serverKeyOfScript{}).(*heldServer)
}
