package vllm

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/process/processtest"
	"github.com/empo2/empo2/sampler/fleet"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func TestLaunchLine(t *testing.T) {
	line := LaunchLine(LaunchConfig{Model: "Qwen/Qwen3-0.6B", MaxRank: 24})
	for _, words := range []string{"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "vllm serve Qwen/Qwen3-0.6B", "--enable-lora",
		"--max-lora-rank 32", "--generation-config vllm"} {
		if !strings.Contains(line, words) {
			t.Errorf("%s: no %s", line, words)
		}
	}
}

func TestTheRecipeSetsTheOptions(t *testing.T) {
	l := LaunchConfig{Python: "python", Model: "/m", CPU: true, Exact: true, Sleep: true, Context: 512, MaxSeqs: 8,
		Env: []string{"A=b"}}.withDefaults()
	command := strings.Join(l.command(81, "k"), " ")
	for _, words := range []string{
		"python -m vllm.entrypoints.openai.api_server --model /m --host 127.0.0.1 --port 81",
		"--dtype float32", "--max-model-len 512", "--max-num-seqs 8", "--enable-sleep-mode", "--no-enable-chunked-prefill",
	} {
		if !strings.Contains(command, words) {
			t.Errorf("%s: no %s", command, words)
		}
	}
	for _, variable := range []string{"VLLM_SERVER_DEV_MODE=1", "OMP_NUM_THREADS=1", "A=b"} {
		if !slices.Contains(l.environment(), variable) {
			t.Errorf("%s: no %s", l.environment(), variable)
		}
	}
	command = strings.Join((LaunchConfig{Model: "m"}).withDefaults().command(1, "k"), " ")
	if !strings.HasPrefix(command, "vllm serve m --host") {
		t.Error(command)
	}
}

// The share of memory is limited only with a GPU.
func TestTheRecipeLimitsTheMemoryOfAGPU(t *testing.T) {
	f := func(l LaunchConfig, want bool) {
		t.Helper()
		command := strings.Join(l.withDefaults().command(1, "k"), " ")
		if strings.Contains(command, "--gpu-memory-utilization 0.5") != want || !want &&
			strings.Contains(command, "utilization") {
			t.Errorf("%+v: %s", l, command)
		}
	}
	f(LaunchConfig{Model: "m", GPUMemoryUtilization: 0.5}, true)
	f(LaunchConfig{Model: "m", GPUMemoryUtilization: 0.5, CPU: true}, false)
	f(LaunchConfig{Model: "m"}, false)
}

// Other users of the machine cannot load adapters into a launched server.
func TestALaunchedServerHasAKey(t *testing.T) {
	f := func(name string, cfg Config, env, command string) {
		t.Helper()
		l := cfg.Launch
		cfg.setKey(&l)
		fill := strings.NewReplacer("?", cfg.APIKey)
		if got := strings.Join(l.environment(), " "); !strings.HasSuffix(got, fill.Replace(env)) || env == "" &&
			strings.Contains(got, "VLLM_API_KEY") {
			t.Errorf("%s: environment %s", name, got)
		}
		if got := strings.Join(l.command(1, cfg.APIKey), " "); !strings.Contains(got, fill.Replace(command)) ||
			env != "" && strings.Contains(got, cfg.APIKey) {
			t.Errorf("%s: %s", name, got)
		}
		if len(cfg.APIKey) < 20 && !strings.HasPrefix(cfg.APIKey, "own") && env+command != "" {
			t.Errorf("%s: key %q", name, cfg.APIKey)
		}
	}
	f("recipe", Config{Launch: LaunchConfig{Model: "m"}}, " VLLM_API_KEY=?", "")
	f("recipe with a given key", Config{APIKey: "own", Launch: LaunchConfig{Model: "m"}}, " VLLM_API_KEY=own", "")
	f("command", Config{Launch: LaunchConfig{Command: []string{"serve", "{port}"}}}, "", "")
	f("command with a key", Config{Launch: LaunchConfig{Command: []string{"serve", "--api-key={key}"}}}, "", "--api-key=?")
}

// The command and the requests have the same key.
func TestTheKeyOfTheCommandIsSent(t *testing.T) {
	cfg := config(nil)
	cfg.Launch = LaunchConfig{Model: "m", Command: []string{os.Args[0], "{port}", "{key}"}, Env: []string{fakeEnv + "=0s"}}
	b := openFake(t, cfg)
	publish(t, b, fakeserver.WriteAdapter(t, policy, 1))
	s := b.Servers()[0].(*server)
	withoutKey := fleet.NewHTTP(s.URL(), "", 1)
	defer withoutKey.Close()
	if err := withoutKey.Call(t.Context(), "/v1/models", nil, nil); s.key == "" ||
		jsonhttp.Status(err) != http.StatusUnauthorized {
		t.Errorf("key %q, a request without it: %v", s.key, err)
	}
}

// A launched server inherits the settings of vLLM, and proxies, but no keys.
func TestEnvironmentOfALaunchedServer(t *testing.T) {
	t.Setenv("VLLM_USE_V1", "1")
	t.Setenv("HTTPS_PROXY", "http://proxy")
	t.Setenv("NAMED", "by the user")
	t.Setenv("CUDA_VISIBLE_DEVICES", "0")
	program, check := processtest.Spy(t, "VLLM_USE_V1=1", "HTTPS_PROXY=http://proxy", "NAMED=by the user",
		"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "CUDA_VISIBLE_DEVICES=2,3")
	for _, l := range []LaunchConfig{{Model: "m", Python: program}, {Model: "m", Command: []string{program, "{port}"}}} {
		l.Inherit, l.Devices = []string{"NAMED"}, []string{"2,3"}
		if _, err := Open(t.Context(), Config{Launch: l}); err == nil {
			t.Error("the server started")
		}
		check()
	}
}

func TestAFailedLaunchGivesTheReason(t *testing.T) {
	for command, wantErr := range map[string]string{
		"echo \"ModuleNotFoundError: No module named 'vllm'\"; exit 1": "hint: this Python has no vLLM",
		"echo nothing to say; exit 0":                                  "vllm ended: exit status 0\n    nothing to say",
	} {
		_, err := Open(t.Context(),
			Config{Launch: LaunchConfig{Model: "m", Replicas: 2, Command: []string{"/bin/sh", "-c", command, "{port}"}}})
		if err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// A launched server that dies while it is probed is started again and probed
// again, but not without end.
func TestALaunchedServerMayDieAtItsFirstAnswer(t *testing.T) {
	f := func(deaths int, want string) {
		t.Helper()
		folder := t.TempDir()
		for i := range deaths {
			if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg := config(nil)
		cfg.Launch = LaunchConfig{Model: "m", Command: []string{os.Args[0], "{port}"},
			Env: []string{fakeEnv + "=0s", diesEnv + "=" + folder}, Budget: process.NewBudget(3)}
		b, err := Open(t.Context(), cfg)
		if err == nil {
			b.Close()
		}
		if got := fmt.Sprint(err); !strings.Contains(got, want) {
			t.Errorf("%d deaths: %s, want %q", deaths, got, want)
		}
	}
	f(1, "<nil>")
	f(2, "<nil>")
	f(9, "connection to the server lost")
}

// A port that another program takes between the search for it and the start is replaced.
func TestALaunchedServerWhosePortIsTakenGetsAnother(t *testing.T) {
	taken := filepath.Join(t.TempDir(), "taken")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const script = `if rm "$0"; then echo "OSError: [Errno 98] Address already in use"; exit 1; fi 2>/dev/null; exec "$@"`
	cfg := config(nil)
	cfg.Launch = LaunchConfig{Model: "m", Command: []string{"/bin/sh", "-c", script, taken, os.Args[0], "{port}"},
		Env: []string{fakeEnv + "=0s"}}
	openFake(t, cfg)
	if _, err := os.Stat(taken); err == nil {
		t.Error("the first start did not fail")
	}
}

// A launched server that is killed is started again. It passes the canary before
// it gets requests.
func TestALaunchedServerIsRestarted(t *testing.T) {
	returned, restarted := make(chan string, 8), make(chan string, 8)
	cfg := config(nil)
	cfg.OnReturn = func(url string) { returned <- url }
	cfg.OnRestart = func(url string, why error) { restarted <- fmt.Sprint(url, ": ", why) }
	cfg.Launch = LaunchConfig{Model: "m", Replicas: 2, Command: []string{os.Args[0], "{port}"},
		Env: []string{fakeEnv + "=0s"}, Budget: process.NewBudget(3)}
	b := openFake(t, cfg)
	p := publish(t, b, fakeserver.WriteAdapter(t, policy, 3))
	killed := b.Servers()[1].(*server)
	if err := syscall.Kill(killed.Child.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	want := policy.Sample(3, testRequest)
	for url := ""; url == ""; {
		c, err := b.Sample(t.Context(), p, testRequest)
		if err != nil || !slices.Equal(c.IDs, want.IDs) {
			t.Fatalf("%+v %v", c, err)
		}
		select {
		case url = <-returned:
			if url != killed.URL() {
				t.Errorf("%s returned, %s was killed", url, killed.URL())
			}
		default:
		}
	}
	if got := <-restarted; !strings.HasPrefix(got, killed.URL()+": vllm ended: signal: killed") || len(restarted) > 0 {
		t.Errorf("restarted %s, want %s", got, killed.URL())
	}
}
