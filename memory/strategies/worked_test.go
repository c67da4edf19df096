package strategies

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/memory"
)

// near compares numbers that are given with four decimals.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 6e-5 {
		t.Errorf("%s = %.5f, want %.4f", what, got, want)
	}
}

func allNear(t *testing.T, what string, got, want []float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s = %v, want %v", what, got, want)
	}
	for i := range want {
		near(t, fmt.Sprint(what, " ", i), got[i], want[i])
	}
}

func turns(rewards ...float64) []memory.Turn {
	var out []memory.Turn
	for _, r := range rewards {
		out = append(out, memory.Turn{Action: "go", Reward: r})
	}
	return out
}

func TestRemembererUpdatesQ(t *testing.T) {
	mean, constant := Rememberer{RemembererConfig{Actions: 20}}, Rememberer{RemembererConfig{Actions: 20, Rate: 0.1}}
	start := func() []tried { return []tried{{Action: "go", Q: 0.5, N: 2}} }
	near(t, "mean", mean.update(start(), turns(0)[0], 1)[0].Q, 0.6667)
	near(t, "constant rate", constant.update(start(), turns(0)[0], 1)[0].Q, 0.55)
	var actions []tried
	for i, want := range []float64{1, 0.5, 0.6667} {
		actions = mean.update(actions, turns(0)[0], []float64{1, 0, 1}[i])
		near(t, fmt.Sprint("after return ", i), actions[0].Q, want)
	}
}

func TestRemembererNStepTargets(t *testing.T) {
	r := Rememberer{RemembererConfig{Discount: 0.9, Horizon: 2}}
	m := &scope[record]{}
	m.add([]string{"s2"}, [][]float32{{1, 0}}, record{Actions: []tried{{Q: 0.6}, {Q: 0.1}}})
	m.add([]string{"elsewhere"}, [][]float32{{0, 1}}, record{Actions: []tried{{Q: 9}}})
	e := episode{memory.Experience{Turns: turns(0, 0, 1)}, [][]float32{{0, 1}, {0, 1}, {0.9, 0.1}}}
	allNear(t, "targets", r.targets(e, m), []float64{0.486, 0.9, 1})
	r.config.Horizon = 0
	allNear(t, "Monte Carlo", r.targets(e, m), []float64{0.81, 0.9, 1})
}

func TestRemembererEncouragesTheBestActionOnly(t *testing.T) {
	good, bad := record{Actions: []tried{{Action: "A", Q: .667}, {Action: "B"}, {Action: "C", Q: .2}}}.verdicts(0)
	if diff := cmp.Diff([][]Action{{{"A", .667}}, {{"B", 0}}}, [][]Action{good, bad}); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	// With negative values the reference discourages nothing.
	good, bad = record{Actions: []tried{{Action: "A", Q: -2}, {Action: "B", Q: -1}}}.verdicts(0)
	if len(good) != 0 || len(bad) != 2 {
		t.Errorf("of negative values: encouraged %v, discouraged %v", good, bad)
	}
	// A full table loses the lowest Q, and not the lowest mean reward.
	r := Rememberer{RemembererConfig{Actions: 2}}
	full := []tried{{Action: "A", Q: 1, N: 1, Reward: -5}, {Action: "B", Q: 0.2, N: 1, Reward: 5}}
	got := r.update(full, memory.Turn{Action: "C"}, 0.5)
	if len(got) != 2 || got[0].Action != "A" || got[1].Action != "C" {
		t.Errorf("full table %+v, want A and C", got)
	}
}

func TestRemembererDropsOneOfTheMostSimilarPair(t *testing.T) {
	at := func(angle float64) []float32 {
		return []float32{float32(math.Cos(angle)), float32(math.Sin(angle))}
	}
	fill := func() (*scope[record], *neighbours) {
		m := &scope[record]{}
		n := newNeighbours(m, 3)
		for i, angle := range []float64{0, 0.2, 1.5} {
			n.insert(m, fmt.Sprint(i), at(angle)).data.N = []int{1, 5, 9}[i]
		}
		return m, n
	}
	names := func(m *scope[record]) (out []string) {
		for _, c := range m.cases {
			out = append(out, c.keys[0])
		}
		return out
	}
	m, n := fill()
	if n.insert(m, "like 2", at(1.4)) != nil { // closer to 2 than 0 is to 1
		t.Error("a state was stored that adds nothing")
	}
	m, n = fill()
	n.insert(m, "3", at(0.8))
	if got := names(m); !slices.Equal(got, []string{"0", "2", "3"}) {
		t.Errorf("records %v: of 0 and 1 the one with more samples goes", got)
	}
	n.insert(m, "4", at(-0.9))
	if got := names(m); len(got) != 3 || !slices.Contains(got, "4") {
		t.Errorf("records %v after a second one", got)
	}
}

var jitExample = []step{{"a1", 10}, {"a1", 6}, {"a2", 2}}

func TestJitRLAdvantages(t *testing.T) {
	allNear(t, "returns", returns(turns(0, 0, 3), 0.5), []float64{0.75, 1.5, 3})
	j := JitRL{JitRLConfig{Bonus: 5}}
	actions := []string{"a1", "a2", "a3"}
	drawn := j.advantages(jitExample, actions, func(int) bool { return true })
	allNear(t, "with the bonus", drawn, []float64{0.5, -1, 0.4167})
	without := j.advantages(jitExample, actions, func(int) bool { return false })
	allNear(t, "without", without, []float64{0.3333, -0.6667, -1})
	f := func(a []float64, beta float64, want ...float64) {
		t.Helper()
		z := make([]float64, 3)
		for i, p := range []float64{0.2, 0.5, 0.3} {
			z[i] = math.Log(p) + beta*a[i]
		}
		allNear(t, fmt.Sprint("β ", beta), softmax(z), want)
	}
	f(drawn, 0, 0.2, 0.5, 0.3)
	f(drawn, 1, 0.3404, 0.1899, 0.4697)
	f(drawn, 3, 0.4554, 0.0126, 0.5320)
	f(without, 1, 0.4319, 0.3973, 0.1708)
	f(without, 3, 0.8681, 0.1081, 0.0238)
}

// The new policy is the maximum of E[Ã] − KL/β: no other distribution on the same support is
// better.
func TestJitRLIsTheExactSolution(t *testing.T) {
	base, a := []float64{0.2, 0.5, 0.3}, []float64{0.5, -1, 0.4167}
	objective := func(p []float64, beta float64) (value float64) {
		for i := range p {
			value += p[i]*a[i] - p[i]*math.Log(p[i]/base[i])/beta
		}
		return value
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct{ beta, value float64 }{{1, -0.0317}, {3, 0.2257}} {
		z, sum := make([]float64, 3), 0.0
		for i := range z {
			z[i] = math.Log(base[i]) + c.beta*a[i]
			sum += base[i] * math.Exp(c.beta*a[i])
		}
		best := objective(softmax(z), c.beta)
		near(t, "value", best, c.value)
		near(t, "value in closed form", math.Log(sum)/c.beta, c.value)
		for range 200 {
			other := softmax([]float64{rng.NormFloat64(), rng.NormFloat64(), rng.NormFloat64()})
			if v := objective(other, c.beta); v > best {
				t.Fatalf("β %v: %v has value %v, above %v", c.beta, other, v, best)
			}
		}
	}
}

// The share of a choice follows π·exp(βÃ), and β = 0 leaves the policy as it is.
func TestJitRLChoosesInProportion(t *testing.T) {
	m := &scope[step]{}
	for _, s := range jitExample {
		m.add([]string{"here"}, nil, s)
	}
	candidates := []memory.Candidate{{Action: "a1", Logprob: math.Log(0.2)}, {Action: "a2", Logprob: math.Log(0.5)},
		{Action: "a3", Logprob: math.Log(0.3)}}
	f := func(beta, explore float64, candidates []memory.Candidate, want map[string]float64) {
		t.Helper()
		j := JitRL{JitRLConfig{Neighbours: 10, Threshold: 0.8, Beta: beta, Bonus: 5, Explore: explore}}
		const n = 20_000
		got := map[string]float64{}
		rng := rand.New(rand.NewPCG(3, 4))
		for range n {
			got[j.choose(query{text: "here", rng: rng}, candidates, m)] += 1.0 / n
		}
		for action, p := range want {
			if math.Abs(got[action]-p) > 0.015 {
				t.Errorf("β %v: %s was chosen in %.3f, want %.3f", beta, action, got[action], p)
			}
		}
	}
	f(0, 1, candidates, map[string]float64{"a1": 0.2, "a2": 0.5, "a3": 0.3})
	f(3, 1, candidates, map[string]float64{"a1": 0.4554, "a2": 0.0126, "a3": 0.5320})
	f(3, 0, candidates, map[string]float64{"a1": 0.8681, "a2": 0.1081, "a3": 0.0238})
	// a1 is known to the memory only: it starts equal to the likeliest candidate, a2. Ã is (⅓, −⅔, −1).
	f(1, 0, candidates[1:], map[string]float64{"a1": 0.6553, "a2": 0.2411, "a3": 0.1036})
}

func TestMementoSoftQ(t *testing.T) {
	allNear(t, "μ", softmax([]float64{1 / 0.5, 0 / 0.5}), []float64{0.8808, 0.1192})
	next := softValue([]float64{1, 0}, 0.5)
	near(t, "consistent target", 0.9*next, 0.9571)
	near(t, "Q", 0.2+0.1*(0.9*next-0.2), 0.2757)
	printed := 0.9 * 0.5 * math.Log(math.Exp(1)+math.Exp(0))
	near(t, "the printed target, which we do not use", printed, 0.5910)
	near(t, "towards 0 it is the maximum", softValue([]float64{1, 0}, 1e-9), 1)
	near(t, "without a temperature too", softValue([]float64{1, 0}, 0), 1)
}

// One step of Eq. 8 within the strategy: Q .2, r 0, γ .9, α .5, η .1, Q(s',·) = (1, 0).
func TestMementoLearnsFromTheNextState(t *testing.T) {
	s := Memento{MementoConfig{Candidates: 5, Threshold: 0.5, Capacity: 9, Temperature: 0.5, Rate: 0.1, Discount: 0.9}}
	here, there := []float32{1, 0}, []float32{0, 1}
	m := &scope[experienced]{}
	m.add([]string{"used"}, [][]float32{here}, experienced{Q: 0.2}).id = 1
	m.add([]string{"next"}, [][]float32{there}, experienced{Q: 1})
	m.add([]string{"next too"}, [][]float32{there}, experienced{})
	s.learn(episode{memory.Experience{States: []string{"a", "b"}, Turns: []memory.Turn{{Action: "go", Shown: []int64{1}},
		{Action: "go"}}}, [][]float32{here, there}}, m)
	near(t, "Q", m.cases[0].data.Q, 0.2757)
}

func TestUMemBelief(t *testing.T) {
	b := belief{0, 1}
	for i, want := range []belief{{0.5, 0.5}, {1. / 3, 1. / 3}, {0.5, 0.25}} {
		b = b.update([]float64{1, 0, 1}[i], 1, 0)
		near(t, "μ", b.Mean, want.Mean)
		near(t, "σ²", b.Variance, want.Variance)
	}
	// The order does not matter, and the variance falls to the floor only.
	c := belief{0, 1}
	for _, delta := range []float64{1, 1, 0} {
		c = c.update(delta, 1, 0)
	}
	near(t, "μ in another order", c.Mean, b.Mean)
	for range 100 {
		c = c.update(0.5, 1, 0.1)
	}
	near(t, "floor", c.Variance, 0.1)
	// N(1/3, 1/3) beats N(.5, .5) with probability .4276: λ = 1 ranks by the draws.
	u := UMem{UMemConfig{Lambda: 1}}
	rng, wins := rand.New(rand.NewPCG(1, 2)), 0.0
	const n = 100_000
	for range n {
		if u.score(0, belief{1. / 3, 1. / 3}, rng.NormFloat64()) > u.score(0, belief{0.5, 0.5}, rng.NormFloat64()) {
			wins += 1.0 / n
		}
	}
	if math.Abs(wins-0.4276) > 0.006 {
		t.Errorf("wins %.4f, want .4276", wins)
	}
	near(t, "λ = 0 is the similarity", UMem{}.score(0.7, belief{5, 5}, 1), 0.7)
	near(t, "λ = 1 and σ² = 0 is the mean", u.score(0.7, belief{0.4, 0}, 3), 0.4)
	p := UMem{UMemConfig{Capacity: 9}}
	m := &scope[useful]{}
	m.add([]string{"x"}, [][]float32{{1, 0}}, useful{Utility: belief{0.8, 1}})
	m.add([]string{"y"}, [][]float32{{0.5, 0}}, useful{Utility: belief{0.2, 1}})
	near(t, "prior", p.prior(episode{vectors: [][]float32{{1, 0}}}, m).Mean, (0.8+0.5*0.2)/1.5)
}

// Worths of 0.5 (one episode, +1), 0 and −1/3 (two episodes, −0.5 each) at similarities of .6,
// .9 and .95 give the ranks .6·2, .9·1 and .95·⅓.
func TestCreditRanksBySimilarityTimesWorth(t *testing.T) {
	s := Credit{CreditConfig{K: 3, Capacity: 9}}
	m := &scope[credited]{}
	for i, c := range []credited{{Sum: 1, N: 1}, {}, {Sum: -1, N: 2}, {}} {
		c.Tip, c.Written = memory.Tip{Text: string(rune('A' + i)), Score: float64(i)}, i+1
		cosine := []float32{.6, .9, .95, .9}[i]
		m.add([]string{c.Tip.Text}, [][]float32{{cosine, 0}}, c)
	}
	got := s.recall(query{vector: []float32{1, 0}}, m)
	var order string
	for _, tip := range got.Tips {
		order += tip.Text
	}
	// B and D are equal but for the score; C sinks, although it is the most similar.
	if order != "ADB" || got.Similar != 10 {
		t.Errorf("order %s, similar %d, want ADB and 10", order, got.Similar)
	}
	near(t, "a tip that was never shown", credited{}.worth(), 0)
	near(t, "one lucky episode", credited{Sum: 1, N: 1}.worth(), 0.5)
}

func TestMemSifterReward(t *testing.T) {
	tiers := []int{1, 2, 3, 5, 8}
	near(t, "R", SiftReward(0.2, tiers, []float64{.5, .5, .8, .8, 1}), 0.5131)
	// Full score once the evidence is included, by the rank of the evidence.
	before := 2.0
	for rank, want := range []float64{1, .6309, .5, .3869, .3869, .3155, .3155, .3155, 0} {
		scores := make([]float64, 5)
		for n, k := range tiers {
			if k >= rank+1 {
				scores[n] = 1
			}
		}
		got := SiftReward(0, tiers, scores)
		near(t, fmt.Sprint("evidence at rank ", rank+1), got, want)
		if got > before {
			t.Errorf("moving the evidence up from rank %d lowers R", rank+1)
		}
		before = got
	}
	near(t, "equal scores", SiftReward(0.3, tiers, []float64{.9, .9, .9, .9, .9}), 0.6)
	// R = −s₀ + Σ w_n s_{k_n} with these weights.
	for n, want := range []float64{.3691, .1309, .1131, .0714, .3155} {
		scores := make([]float64, 5)
		scores[n] = 1
		near(t, fmt.Sprint("weight ", n), SiftReward(0, tiers, scores), want)
	}
}

func TestGate(t *testing.T) {
	near(t, "g·d", inner([]float64{.5, .3, .2}, []float64{.8, -.5, .1}), 0.27)
	g := &gate{B2: []float64{1, 0, -1}}
	_, weights := g.forward(nil)
	allNear(t, "gate", weights, []float64{.6652, .2447, .0900})
	near(t, "f", g.score(nil, []float64{.8, -.5, .1}), 0.4188)
	// f_i − f_rev = .3
	for margin, want := range map[Margin]float64{MarginLinear: -.3, MarginSigmoid: -.1489, MarginLogistic: .5544} {
		near(t, string(margin), margin.loss(-.3), want)
		slope := (margin.loss(-.3+1e-6) - margin.loss(-.3-1e-6)) / 2e-6
		near(t, string(margin)+"'s slope", margin.slope(-.3), slope)
	}
}

// The lever has changed: the stale tip is a little more similar, the new one is recent. 18 steps
// on the linear margin turn the order.
func TestGateLearnsToPreferTheRecentTip(t *testing.T) {
	g := &gate{B2: []float64{4, 0}}
	stale, fresh := []float64{.80, -1}, []float64{.75, 0}
	margin := func() float64 { return g.score(nil, fresh) - g.score(nil, stale) }
	near(t, "margin", margin(), -0.0311)
	for n := range 18 {
		if margin() > 0 {
			t.Errorf("the sign turned after %d steps already", n)
		}
		g.train(pair{weight: 1, features: [2][]float64{fresh, stale}}, MarginLinear, 1)
	}
	_, weights := g.forward(nil)
	if margin() <= 0 || math.Abs(weights[0]-.952) > .0015 {
		t.Errorf("margin %.4f, gate %.3f, want above 0 and .952", margin(), weights)
	}
}

// The gradient of the hidden layer equals a difference quotient.
func TestGateGradient(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	vector := func() (v []float32) {
		for range 3 {
			v = append(v, float32(rng.NormFloat64()))
		}
		return v
	}
	p := pair{weight: 1, inputs: [2][]float32{inputOf(vector(), vector(), 4), inputOf(vector(), vector(), 4)},
		features: [2][]float64{{.8, -.2}, {.1, -.9}}}
	g := newGate(6, 4, 2)
	for h := range g.W2[0] {
		g.W2[0][h] = rng.NormFloat64()
	}
	value := func() float64 { return g.score(p.inputs[0], p.features[0]) - g.score(p.inputs[1], p.features[1]) }
	const small = 1e-3
	quotient := func(at *float32) float64 {
		old := *at
		*at = old + small
		up := value()
		*at = old - small
		down := value()
		*at = old
		return (up - down) / (2 * small)
	}
	wantW, wantB := quotient(&g.W1[2][4]), quotient(&g.B1[1])
	w, b := float64(g.W1[2][4]), float64(g.B1[1])
	g.train(p, MarginLinear, 1e-2)
	for what, x := range map[string][2]float64{"W₁": {(float64(g.W1[2][4]) - w) / 1e-2, wantW},
		"b₁": {(float64(g.B1[1]) - b) / 1e-2, wantB}} {
		if math.Abs(x[0]-x[1]) > 1e-4+0.01*math.Abs(x[1]) {
			t.Errorf("gradient of %s = %.6f, want %.6f", what, x[0], x[1])
		}
	}
}

func TestReflexionShowsTheLastThree(t *testing.T) {
	r := Reflexion{ReflexionConfig{Window: 3, Capacity: 10}}
	m := &scope[reflection]{}
	for _, text := range []string{"L1", "L2", "L3", "L4"} {
		r.learn(episode{Experience: memory.Experience{Tip: memory.Tip{Text: text}}}, m)
	}
	r.learn(episode{Experience: memory.Experience{Success: true, Tip: memory.Tip{Text: "won"}}}, m)
	var got []string
	for _, tip := range r.recall(query{}, m).Tips {
		got = append(got, tip.Text)
	}
	if !slices.Equal(got, []string{"L2", "L3", "L4"}) {
		t.Errorf("shown %v", got)
	}
}
