package samplertest

// Fault is something that goes wrong with one answer of a fake server.
type Fault string

// The faults. The zero value is none.
const (
	FaultHang       Fault = "hang"         // no answer until the client gives up
	FaultBusy       Fault = "busy"         // 503, as while the model loads
	FaultCut        Fault = "cut"          // the connection breaks within the body
	FaultGarbage    Fault = "garbage"      // 200 with a body that is not JSON
	FaultWrongIDs   Fault = "wrong ids"    // the probabilities are of other ids
	FaultBadID      Fault = "bad id"       // an id outside the vocabulary
	FaultNoLogprobs Fault = "no log-probs" // completion_probabilities is missing
	FaultGap        Fault = "gap"          // the first token has no entry, as for incomplete UTF-8
	FaultNaN        Fault = "nan"          // the last entry's logprob is null
	FaultWrongModel Fault = "wrong model"  // another version answers
	FaultEmpty      Fault = "empty"        // no token at all
)

// More faults, of servers that load adapters while they run.
const (
	FaultTooMany Fault = "too many" // more tokens than were asked for
	FaultDie     Fault = "die"      // the server dies with the request in flight
)

// FaultNoEnd is an answer of text without its end: Ollama gives up when a
// model repeats itself and does not report it.
const FaultNoEnd Fault = "no end"
