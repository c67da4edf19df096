package process

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/process/processtest"
)

// Start, Keep and Output all choose the environment.
func TestAChildInheritsOnlyWhatItNeeds(t *testing.T) {
	t.Setenv("PIP_USER", "1")
	t.Setenv("NO_PROXY", "corp.example")
	t.Setenv("HTTP_PROXY", "http://proxy.example:3128")
	t.Setenv("OMP_NUM_THREADS", "3")
	t.Setenv("NAMED_TOKEN", "the user wants it")
	program, check := processtest.Spy(t, "PIP_USER=0", "PYTHONUTF8=1", "OWN=value", "OMP_NUM_THREADS=3",
		"NAMED_TOKEN=the user wants it", "SET=here",
		"NO_PROXY=corp.example,127.0.0.1,localhost,::1", "no_proxy=corp.example,127.0.0.1,localhost,::1",
		"LC_ALL="+utf8Locale())
	c := Command{Args: []string{program}, Env: []string{"OWN=value"}, Needs: Libraries, Merge: true,
		Inherit: []string{"NAMED_TOKEN", "SET=here"}, Poll: func(context.Context) error { return errors.New("never") }}
	if _, err := Start(t.Context(), c); err == nil {
		t.Error("Start did not fail")
	}
	check("HTTP_PROXY")
	if _, err := Keep(t.Context(), c, Budget{}); err == nil {
		t.Error("Keep did not fail")
	}
	check("HTTP_PROXY")
	if _, err := Output(t.Context(), c); err == nil {
		t.Error("Output did not fail")
	}
	check("HTTP_PROXY")
}

func TestNeeds(t *testing.T) {
	names := []string{"HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "HF_HOME",
		"HF_HUB_OFFLINE", "HF_TOKEN", "PIP_INDEX_URL", "PIP_KEYRING_PROVIDER", "PIP_TARGET", "TOKENIZERS_PARALLELISM",
		"VLLM_USE_V1", "VLLM_API_KEY", "XDG_CACHE_HOME", "TORCH_AUTH"}
	for _, name := range names {
		t.Setenv(name, "x")
	}
	f := func(want string, needs Needs, more ...string) {
		t.Helper()
		var got []string
		for _, kv := range Environ(needs, more...) {
			if name, value, _ := strings.Cut(kv, "="); value == "x" && slices.Contains(names, name) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("needs %b %q: %q, want %q", needs, more, got, want)
		}
	}
	f("LD_LIBRARY_PATH XDG_CACHE_HOME", 0)
	f("HTTPS_PROXY LD_LIBRARY_PATH SSL_CERT_FILE XDG_CACHE_HOME https_proxy", Network)
	f("CUDA_VISIBLE_DEVICES LD_LIBRARY_PATH TOKENIZERS_PARALLELISM XDG_CACHE_HOME", Libraries)
	f("HF_HOME HF_HUB_OFFLINE LD_LIBRARY_PATH XDG_CACHE_HOME", Models)
	f("LD_LIBRARY_PATH PIP_INDEX_URL PIP_KEYRING_PROVIDER XDG_CACHE_HOME", Pip)
	f("LD_LIBRARY_PATH VLLM_USE_V1 XDG_CACHE_HOME", 0, "VLLM_*")
	f("HF_TOKEN LD_LIBRARY_PATH XDG_CACHE_HOME", 0, "HF_TOKEN")
	f("LD_LIBRARY_PATH PIP_INDEX_URL PIP_KEYRING_PROVIDER PIP_TARGET XDG_CACHE_HOME", Pip, "PIP_TARGET")
}

// A secret that the user passes on is not in logs and errors.
func TestAnInheritedSecretIsNotShown(t *testing.T) {
	t.Setenv("THEIR_TOKEN", "hunter2-inherited")
	c := script(t.TempDir(), `echo "$THEIR_TOKEN $API_KEY $OTHER"; exit 1`)
	c.Inherit = []string{"THEIR_TOKEN", "API_KEY=hunter2-set", "OTHER=shown"}
	err := Run(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "[key] [key] shown") {
		t.Errorf("%v", err)
	}
}

func TestHostsWithoutProxy(t *testing.T) {
	f := func(want string, lists ...string) {
		t.Helper()
		if got := withLoopback(lists); got != want {
			t.Errorf("%q: %q, want %q", lists, got, want)
		}
	}
	f("127.0.0.1,localhost,::1")
	f("a,b,c,127.0.0.1,localhost,::1", "a,b", "", "c")
	f("*", "*")
	f("*", "a", "*")
}
