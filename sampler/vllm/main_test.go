package vllm

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/fleet/fleettest"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// fakeEnv turns the test binary into a fake server. The value is the duration of
// each answer. The arguments are a port and a key. Without arguments, the server
// prints its URL.
const fakeEnv = "EMPO2_TEST_FAKE"

// diesEnv names a folder. Each fake server takes a file from it at its first
// completion, if there is one, and dies.
const diesEnv = "EMPO2_TEST_DIES"

// dies reports whether a fake server has taken a file of the folder.
func dies(folder string) bool {
	files, _ := os.ReadDir(folder)
	return len(files) > 0 && os.Remove(filepath.Join(folder, files[0].Name())) == nil
}

func TestMain(m *testing.M) {
	if delay, err := time.ParseDuration(os.Getenv(fakeEnv)); err == nil {
		s := fakeserver.NewVLLM(policy)
		s.Fault = func(fakeserver.CompletionRequest) samplertest.Fault {
			if dies(os.Getenv(diesEnv)) {
				os.Exit(1)
			}
			time.Sleep(delay)
			return ""
		}
		if len(os.Args) > 2 {
			s.APIKey = os.Args[2]
		}
		if len(os.Args) > 1 {
			fmt.Println(http.ListenAndServe("127.0.0.1:"+os.Args[1], s.Config.Handler))
			os.Exit(1)
		}
		fmt.Println(s.URL)
		io.Copy(io.Discard, os.Stdin)
		return
	}
	// Each case opens servers and waits for restarts.
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var policy = fleettest.Policy()

// fakes starts n fake replicas.
func fakes(t testing.TB, n int) (servers []*fakeserver.VLLM, urls []string) {
	for range n {
		s := fakeserver.NewVLLM(policy)
		t.Cleanup(s.Close)
		servers, urls = append(servers, s), append(urls, s.URL)
	}
	return servers, urls
}

// config has short intervals and deadlines.
func config(urls []string) Config {
	return Config{
		URLs: urls, Codec: policy.Tokenizer, CacheSalt: true,
		HealthInterval: 20 * time.Millisecond, LoadTimeout: 10 * time.Second, RequestTimeout: 10 * time.Second,
		Patience: 10 * time.Second,
	}
}

func openFake(t testing.TB, cfg Config) *Backend {
	t.Helper()
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func publish(t testing.TB, b sampler.Backend, a sampler.Adapter) sampler.Policy {
	t.Helper()
	p, err := b.Publish(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
