package samplertest

// Fault is a fault of one answer of a fake server. The zero value is no fault.
type Fault string

// The faults of all fake servers.
const (
	FaultHang       Fault = "hang"         // no answer until the client cancels
	FaultBusy       Fault = "busy"         // status 503, or 429 of an OpenAI server
	FaultCut        Fault = "cut"          // the connection breaks in the middle of the body
	FaultGarbage    Fault = "garbage"      // 200 with a body that is not JSON
	FaultFlood      Fault = "flood"        // 2 MiB more than the completion needs
	FaultWrongIDs   Fault = "wrong ids"    // the log-probs belong to other ids
	FaultBadID      Fault = "bad id"       // an id outside the vocabulary
	FaultNoLogprobs Fault = "no log-probs" // the log-probs are missing
	FaultGap        Fault = "gap"          // the log-prob of the first token is missing, as for incomplete UTF-8
	FaultNaN        Fault = "nan"          // the log-prob of the last token is null
	FaultWrongModel Fault = "wrong model"  // another version answers
	FaultEmpty      Fault = "empty"        // no token
)

// Faults of servers that load adapters at run time.
const (
	FaultTooMany Fault = "too many" // more tokens than requested
	FaultDie     Fault = "die"      // the server dies during the request
)

// FaultNoEnd is an answer without its last part. Ollama stops without an error if a model repeats itself.
const FaultNoEnd Fault = "no end"
