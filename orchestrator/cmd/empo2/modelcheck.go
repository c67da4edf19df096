package main

import (
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// A modelUse is what a run does with a model's folder.
type modelUse struct {
	backend string
	trains  bool
	ownFile bool // llama-server serves a GGUF file of the user's own
	flags   bool // remedies are flags of empo2 init, not keys
}

// useOf is what a run with this configuration does with its model.
func useOf(c config.Config) modelUse {
	return modelUse{backend: c.Sampler.Backend, trains: trains(c), ownFile: c.Sampler.LlamaCPP.GGUF != ""}
}

// check returns an error if the model cannot be used in this way. Training, the
// conversion of adapters and the conversion of the base are separate questions.
func (u modelUse) check(m inspect.Model, place string) error {
	fault := func(hint, format string, args ...any) error {
		return &config.Error{Place: place, Msg: fmt.Sprintf(format, args...), Hint: hint}
	}
	if m.Quantisation != "" && u.trains {
		return fault("name the folder of the original model; "+u.set("algorithm", "adapt")+" with "+
			u.set("backend", "vllm")+" learns tips without training",
			"the weights are quantised (%s), and the trainer needs them in bfloat16 or float32", m.Quantisation)
	}
	others := "use " + u.set("backend", "vllm") + " or " + u.set("backend", "sglang") + ", which need no GGUF"
	writes, known := trainerbridge.WritesAdapters(m.Architecture)
	if u.trains && !writes && (u.backend == "llamacpp" || u.backend == "ollama") {
		return fault(others, "%s needs adapters as GGUF, and those of %q cannot be written as GGUF (those of %s can)",
			u.backend, m.Architecture, strings.Join(known, ", "))
	}
	if u.backend != "llamacpp" || u.ownFile {
		return nil
	}
	hint := others + "; or name a GGUF file of this model: " + u.ownFileKey()
	converts, known := trainerbridge.ConvertsBase(m.Architecture, "")
	if m.Quantisation != "" {
		return fault(hint, "llamacpp needs the model as GGUF, and quantised weights (%s) cannot be converted",
			m.Quantisation)
	}
	if !converts {
		return fault(hint, "llamacpp needs the model as GGUF, and %q cannot be converted (%s can)",
			m.Architecture, strings.Join(known, ", "))
	}
	if ok, _ := trainerbridge.ConvertsBase(m.Architecture, m.RopeScaling); !ok {
		return fault(hint, "llamacpp needs the model as GGUF, and rope scaling of type %q in %s cannot be converted",
			m.RopeScaling, m.Architecture)
	}
	return nil
}

// set is the flag or the key that chooses a value.
func (u modelUse) set(what, value string) string {
	if u.flags {
		return "--" + what + " " + value
	}
	return map[string]string{"backend": "sampler.backend", "algorithm": "algorithm.name"}[what] +
		fmt.Sprintf(" = %q", value)
}

func (u modelUse) ownFileKey() string {
	if u.flags {
		return "--set sampler.llamacpp.gguf=FILE"
	}
	return "sampler.llamacpp.gguf"
}
