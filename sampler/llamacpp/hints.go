package llamacpp

import "github.com/empo2/empo2/orchestrator/process"

// hints are remedies by what the process printed.
var hints = []process.Hint{
	{Contains: "libgomp", Remedy: "install the GNU OpenMP runtime: apt install libgomp1, dnf install libgomp, or apk add " +
		"libgomp"},
	{Contains: "GLIBC", Remedy: "xllamacpp needs a newer glibc (2.17 or later, not musl)"},
	{Contains: "No module named 'xllamacpp'",
		Remedy: "this Python has no xllamacpp: pip install xllamacpp, or let empo2 install its own environment"},
	{Contains: process.IllegalInstruction,
		Remedy: "the packaged llama.cpp needs a processor with AVX2 and FMA: pip install --no-binary xllamacpp xllamacpp " +
			"builds one for this machine"},
	{Contains: "LoRA arch mismatch",
		Remedy: "the adapter belongs to another base model; name the model that it was trained on"},
	{Contains: "hint: maybe wrong base model",
		Remedy: "the adapter belongs to another base model; name the model that it was trained on"},
	{Contains: "has incorrect shape",
		Remedy: "the adapter belongs to another base model; name the model that it was trained on"},
	{Contains: "does not exist in base model",
		Remedy: "the adapter belongs to another base model; name the model that it was trained on"},
	{Contains: "within the file bounds", Remedy: "the file is cut short: delete it and let it be written again"},
	{Contains: "invalid magic", Remedy: "the file is not GGUF: delete it and let it be written again"},
	{Contains: "unable to allocate", Remedy: "not enough memory: lower sampler.concurrency or sampler.max_model_len"},
	{Contains: "failed to allocate", Remedy: "not enough memory: lower sampler.concurrency or sampler.max_model_len"},
	{Contains: "bad_alloc", Remedy: "not enough memory: lower sampler.concurrency or sampler.max_model_len"},
	{Contains: process.KilledBySystem, Remedy: "most likely out of memory: lower sampler.concurrency or sampler.max_model_len"},
	{Contains: "failed to load model",
		Remedy: "the file is damaged, or of a kind that the installed xllamacpp does not know: make it again"},
	{Contains: "couldn't bind", Remedy: "no free port on 127.0.0.1, or the loopback interface is down"},
}
