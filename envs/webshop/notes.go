package webshop

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// A note has the attributes and the instruction of a product (items_ins_v2*.json).
type note struct {
	Attributes            *[]string `json:"attributes"`
	Instruction           *string   `json:"instruction"`
	InstructionAttributes []string  `json:"instruction_attributes"`
}

// A wish is a person's instruction to buy a product (items_human_ins.json).
type wish struct {
	Instruction string   `json:"instruction"`
	Attributes  []string `json:"instruction_attributes"`
	Options     []string `json:"instruction_options"`
}

// notes maps an asin to its note.
type notes map[string]note

// noAttributes is the original's value for a product without attributes.
var noAttributes = []string{"DUMMY_ATTR"}

func (n notes) attributes(asin string) []string {
	if a := n[asin].Attributes; a != nil {
		return *a
	}
	return noAttributes
}

// readNotes reads items_ins_v2*.json. It keeps instructions only if they are needed.
func readNotes(r io.Reader, shared interner, instructions bool) (notes, error) {
	all := make(notes)
	err := readObject(r, func(asin string, dec *json.Decoder) error {
		var n note
		if err := dec.Decode(&n); err != nil {
			return safetext.JSONError(err)
		}
		if !instructions {
			n.Instruction, n.InstructionAttributes = nil, nil
		}
		if n.Attributes != nil {
			shared.all(*n.Attributes)
		}
		shared.all(n.InstructionAttributes)
		all[asin] = n
		return nil
	})
	return all, err
}

// readWishes reads items_human_ins.json.
func readWishes(r io.Reader) (map[string][]wish, error) {
	all := make(map[string][]wish)
	err := readObject(r, func(asin string, dec *json.Decoder) error {
		var list []wish
		if err := dec.Decode(&list); err != nil {
			return safetext.JSONError(err)
		}
		all[asin] = list
		return nil
	})
	return all, err
}

// readObject calls value for every key of a JSON object.
func readObject(r io.Reader, value func(key string, dec *json.Decoder) error) error {
	dec := json.NewDecoder(r)
	if err := expect(dec, '{'); err != nil {
		return err
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		if err := value(key, dec); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return finish(dec)
}

// expect reads the beginning of a list or an object.
func expect(dec *json.Decoder, want json.Delim) error {
	t, err := dec.Token()
	switch {
	case err != nil || t == want:
		return err
	case t == nil:
		t = "null"
	}
	return fmt.Errorf("the file begins with %v, want %v", t, want)
}

// finish reads the end of a list or an object, which is also the end of the file.
func finish(dec *json.Decoder) error {
	if _, err := dec.Token(); errors.Is(err, io.EOF) {
		return errors.New("the file ends in the middle of its data")
	} else if err != nil {
		return err
	}
	switch t, err := dec.Token(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("after the end of the data: %w", err)
	default:
		return fmt.Errorf("the file goes on with %v after the end of its data", t)
	}
}

// An interner makes equal strings share memory.
type interner map[string]string

func (in interner) one(s string) string {
	if same, ok := in[s]; ok {
		return same
	}
	in[s] = s
	return s
}

func (in interner) all(list []string) {
	for i, s := range list {
		list[i] = in.one(s)
	}
}
