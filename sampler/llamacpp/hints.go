package llamacpp

import "github.com/empo2/empo2/orchestrator/process"

const (
	otherBaseHint = "the adapter belongs to another base model: set model.path to the model that it was trained on"
	adapterHint   = "a file of the adapter is missing or damaged: the same command continues, and writes it again"
	memoryHint    = "not enough memory: lower sampler.concurrency or sampler.max_model_len"
)

// exitHints are remedies for the last output of the process.
var exitHints = []process.Hint{
	{Contains: "libgomp",
		Remedy: "install the GNU OpenMP runtime: apt install libgomp1, dnf install libgomp, or apk add libgomp"},
	{Contains: "GLIBC", Remedy: "xllamacpp needs a newer glibc (2.17 or later, not musl)"},
	{Contains: "No module named 'xllamacpp'",
		Remedy: "this Python has no xllamacpp: pip install xllamacpp, or let empo2 install its own environment"},
	{Contains: process.IllegalInstruction,
		Remedy: "the packaged llama.cpp needs a processor with AVX2 and FMA: pip install --no-binary xllamacpp xllamacpp " +
			"builds one for this machine"},
	{Contains: "LoRA arch mismatch",
		Remedy: otherBaseHint},
	{Contains: "hint: maybe wrong base model",
		Remedy: otherBaseHint},
	{Contains: "has incorrect shape",
		Remedy: otherBaseHint},
	{Contains: "does not exist in base model",
		Remedy: otherBaseHint},
	{Contains: "within the file bounds", Remedy: "the file is cut short: delete it, so that it is written again"},
	{Contains: "invalid magic", Remedy: "the file is not GGUF: delete it, so that it is written again"},
	{Contains: "failed to open GGUF file", Remedy: adapterHint},
	{Contains: "failed to apply lora adapter", Remedy: adapterHint},
	{Contains: "failed to load lora adapter", Remedy: adapterHint},
	{Contains: "unable to allocate", Remedy: memoryHint},
	{Contains: "failed to allocate", Remedy: memoryHint},
	{Contains: "bad_alloc", Remedy: memoryHint},
	{Contains: process.KilledBySystem,
		Remedy: "most likely out of memory: lower sampler.concurrency or sampler.max_model_len"},
	{Contains: "failed to load model",
		Remedy: "the file is damaged, or the installed xllamacpp does not support it: convert the model again"},
	{Contains: "couldn't bind", Remedy: "no free port on 127.0.0.1, or the loopback interface is down"},
}

// tokenizerHint is the remedy if the file's tokenizer is not the model's.
func (h gguf) tokenizerHint() string {
	if h.Tokenizer == "gpt2" && h.Split == "" {
		return "the GGUF file has no tokenizer.ggml.pre, so llama.cpp guesses how to split text: convert the model again " +
			"with a recent llama.cpp, or leave sampler.llamacpp.gguf empty"
	}
	return "name a GGUF file of the model in model.path in sampler.llamacpp.gguf, or leave the key empty; if it is " +
		"empty, use sampler.backend = \"vllm\""
}
