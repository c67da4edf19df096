package main

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
)

// A program that does not exist, for a server or for an environment, is a wrong configuration and exits with its code.
func TestMissingProgramsAreAWrongConfiguration(t *testing.T) {
	f := func(want string, sets ...string) {
		t.Helper()
		c, err := config.Source{Profile: config.Demo, Sets: sets}.Load()
		if err != nil {
			t.Fatal(err)
		}
		if err = checkPrograms(c); err == nil && c.Env.Name == "scienceworld" {
			_, err = openFamily(t.Context(), opening{config: c})
		}
		var fault *config.Error
		code := conclude(context.Background(), err, io.Discard)
		if want == "" && err != nil || want != "" && (!errors.As(err, &fault) || fault.Place != want || fault.Hint == "" ||
			code != exitUsage) {
			t.Errorf("%v: %v, exit code %d", sets, err, code)
		}
	}
	const none = "/nonexistent/program"
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f("")
	f("", "sampler.llamacpp.binary="+self)
	f("sampler.llamacpp.binary", "sampler.llamacpp.binary="+none)
	f("sampler.vllm.launch", "sampler.backend=vllm", `sampler.vllm.launch=["`+none+`"]`)
	f("sampler.sglang.launch", "sampler.backend=sglang", `sampler.sglang.launch=["`+none+`"]`)
}
