package inspect

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Shape is the size of a model's parts, by its config.json. Values that the file
// does not have are 0.
type Shape struct {
	Layers, Hidden, Intermediate, Heads, KVHeads, HeadDim, Vocabulary int64

	Tied bool // input and output embeddings are one matrix

	// A mixture has Experts MLPs of ExpertSize in each of SparseLayers, and one of
	// SharedExpert beside them. A dense model has 0 experts.
	Experts, ExpertSize, SharedExpert, SparseLayers int64
}

// Linear are the rows plus columns of the linear layers of one decoder layer,
// summed: a LoRA adapter has so many values per rank and layer. attention leaves
// the MLP out, and experts, whose weights are one tensor, never have an adapter.
func (s Shape) Linear(attention bool) int64 {
	query, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	n := 2*(s.Hidden+query) + 2*(s.Hidden+kv)
	if !attention && s.SparseLayers == 0 {
		n += 3 * (s.Hidden + s.Intermediate)
	}
	return n
}

// parameters counts the weights of a decoder of this shape.
func (s Shape) parameters() int64 {
	query, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	attention := 2*s.Hidden*query + 2*s.Hidden*kv + 2*s.Hidden
	router := s.Hidden * s.Experts
	n := s.Layers*attention + (s.Layers-s.SparseLayers)*3*s.Hidden*s.Intermediate +
		s.SparseLayers*(3*s.Hidden*(s.Experts*s.ExpertSize+s.SharedExpert)+router) + s.Vocabulary*s.Hidden + s.Hidden
	if !s.Tied {
		n += s.Vocabulary * s.Hidden
	}
	return n
}

// Config reads only the config.json of a model's folder. The weights need not
// exist: the number of parameters is then computed from the shape.
func Config(path string) (Model, error) {
	if m, err := Folder(path); err == nil {
		return m, nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Model{}, err
	}
	m := Model{Path: abs}
	if err = m.readConfig(); err == nil && (m.Shape.Layers == 0 || m.Shape.Hidden == 0 || m.Shape.Vocabulary == 0) {
		err = errors.New("config.json does not give the model's shape (num_hidden_layers, hidden_size, vocab_size)" +
			folderHint)
	}
	if err != nil {
		return m, fmt.Errorf("model %s: %w", path, err)
	}
	m.Parameters = m.Shape.parameters()
	return m, nil
}
