package strategies

import (
	"math"
	"math/rand/v2"
	"slices"
)

// A gate is g = softmax(W₂ σ(W₁x + b₁) + b₂) for an input x = [h_s; h_m]. Without a hidden
// layer it is softmax(b₂).
type gate struct {
	Hidden int         `json:"hidden"`
	W1     [][]float32 `json:"w1,omitempty"` // hidden × input
	B1     []float32   `json:"b1,omitempty"`
	W2     [][]float64 `json:"w2,omitempty"` // features × hidden
	B2     []float64   `json:"b2"`
}

// newGate draws the weights of W₁ and W₂ from N(0, 0.02). (The reference draws from N(1,
// 0.02), which makes all hidden units equal.) b₂ is 0 but for the cosine, so that an untrained
// gate ranks by similarity.
func newGate(inputs, hidden, features int) *gate {
	g := &gate{Hidden: hidden, B2: make([]float64, features)}
	g.B2[0] = 4
	if hidden == 0 {
		return g
	}
	rng := rand.New(rand.NewPCG(uint64(inputs), uint64(hidden)))
	g.B1 = make([]float32, hidden)
	for range hidden {
		row := make([]float32, inputs)
		for i := range row {
			row[i] = float32(0.02 * rng.NormFloat64())
		}
		g.W1 = append(g.W1, row)
	}
	for range features {
		row := make([]float64, hidden)
		for i := range row {
			row[i] = 0.02 * rng.NormFloat64()
		}
		g.W2 = append(g.W2, row)
	}
	return g
}

// inputOf is [h_s; h_m], nil without a hidden layer.
func inputOf(state, memory []float32, hidden int) []float32 {
	if hidden == 0 {
		return nil
	}
	return slices.Concat(state, memory)
}

// forward returns the hidden units and the gate.
func (g *gate) forward(x []float32) (hidden, weights []float64) {
	z := slices.Clone(g.B2)
	for h := range g.Hidden {
		u := 1 / (1 + math.Exp(-dot(g.W1[h], x)-float64(g.B1[h])))
		hidden = append(hidden, u)
		for k := range z {
			z[k] += g.W2[k][h] * u
		}
	}
	return hidden, softmax(z)
}

// score is f = g·d.
func (g *gate) score(x []float32, d []float64) float64 {
	_, weights := g.forward(x)
	return inner(weights, d)
}

func inner(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

// A pair is two memories that were shown: the first should be ranked higher if the weight is
// above 0.
type pair struct {
	weight   float64
	inputs   [2][]float32
	features [2][]float64
}

// train makes one step of SGD on weight · loss(f_rev − f_i).
func (g *gate) train(p pair, margin Margin, rate float64) {
	m := g.score(p.inputs[1], p.features[1]) - g.score(p.inputs[0], p.features[0])
	up := rate * p.weight * margin.slope(m)
	before := *g // both gradients are taken at the same weights
	before.W2 = make([][]float64, len(g.W2))
	for k := range g.W2 {
		before.W2[k] = slices.Clone(g.W2[k])
	}
	before.B2 = slices.Clone(g.B2)
	hidden0, weights0 := g.forward(p.inputs[0])
	hidden1, weights1 := g.forward(p.inputs[1])
	g.raise(&before, p.inputs[0], p.features[0], hidden0, weights0, up)
	g.raise(&before, p.inputs[1], p.features[1], hidden1, weights1, -up)
}

// raise adds rate times the gradient of f = g·d: ∂f/∂z_k = g_k (d_k − f).
func (g *gate) raise(at *gate, x []float32, d, hidden, weights []float64, rate float64) {
	f := inner(weights, d)
	back := make([]float64, g.Hidden)
	for k := range g.B2 {
		slope := weights[k] * (d[k] - f)
		g.B2[k] += rate * slope
		for h := range back {
			back[h] += slope * at.W2[k][h]
			g.W2[k][h] += rate * slope * hidden[h]
		}
	}
	for h := range back {
		slope := back[h] * hidden[h] * (1 - hidden[h])
		g.B1[h] += float32(rate * slope)
		for i := range x {
			g.W1[h][i] += float32(rate*slope) * x[i]
		}
	}
}
