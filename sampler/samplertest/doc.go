// Package samplertest has test tools for backends and for the packages that use them:
//
//   - [Run] is the conformance suite of [sampler.Backend]. Every backend must pass it. [RunText] is the suite of
//     backends whose servers return only text.
//   - [Script] is a policy written as a Go function. [Scripted] is a Backend in this process that samples from a
//     script, with exact log-probs. Package fakeserver serves scripts over HTTP as real servers do.
//   - [Tokenizer] is the tokenizer of scripts.
//   - [Swap] and [BenchmarkSwaps] replace versions under load.
package samplertest
