// Command empo2 trains LLM agents with memory-augmented reinforcement learning.
package main

import (
	_ "github.com/BurntSushi/toml"
	_ "github.com/alecthomas/kong"
	_ "github.com/go-resty/resty/v2"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/ollama/ollama/api"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/rs/zerolog"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sync/semaphore"
	_ "gonum.org/v1/gonum/blas/blas32"
	_ "gonum.org/v1/gonum/stat"
	_ "modernc.org/sqlite"
	_ "pgregory.net/rapid"
)

func main() {}
