package strategies

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/memory"
)

// The corridor has K doors with M levers each. One lever is right, a wrong one ends the walk. The
// scripted policy U pulls any lever, but obeys what the strategy tells it.
type corridor struct {
	doors, levers int
	alarm         float64 // reward of a wrong lever
	sparse        bool    // the reward is 1 at the end, not 1/K for each door
}

const (
	repetitions = 2000
	margin      = 4.0 // points
)

// vectorOf is a vector of its own for each door.
func vectorOf(door int) []float32 {
	v := make([]float32, 8)
	v[door] = 1
	return v
}

// pull is a choice of U: the lever and the ids of what it was shown.
type pull func(rng *rand.Rand, door int) (lever int, shown []int64)

// walk plays one episode and reports whether the last door opened.
func (c corridor) walk(rng *rand.Rand, right []int, choose pull) episode {
	var e episode
	for door := range c.doors {
		lever, shown := choose(rng, door)
		turn := memory.Turn{Action: fmt.Sprint(lever), Shown: shown}
		e.States = append(e.States, fmt.Sprint("door ", door))
		e.vectors = append(e.vectors, vectorOf(door))
		opened := lever == right[door]
		e.Success = opened && door == c.doors-1
		switch {
		case !opened:
			turn.Reward = c.alarm
		case !c.sparse:
			turn.Reward = 1 / float64(c.doors)
		case e.Success:
			turn.Reward = 1
		}
		e.Turns = append(e.Turns, turn)
		e.Return += turn.Reward
		if !opened {
			break
		}
	}
	return e
}

// curve returns the success in percent in each trial, over repetitions with fresh right levers and
// a fresh memory.
func curve[T any](c corridor, trials int, m method[T], u func(m *scope[T]) pull) []float64 {
	rng, out := rand.New(rand.NewPCG(11, 12)), make([]float64, trials)
	for range repetitions {
		right := make([]int, c.doors)
		for d := range right {
			right[d] = rng.IntN(c.levers)
		}
		memory := &scope[T]{name: "corridor"}
		for trial := range out {
			e := c.walk(rng, right, u(memory))
			if e.Success {
				out[trial] += 100.0 / repetitions
			}
			m.learn(e, memory)
			memory.settle()
		}
	}
	return out
}

// settle gives the new cases ids, as a commit does.
func (m *scope[T]) settle() {
	last := int64(0)
	for _, c := range m.cases {
		last = max(last, c.id)
	}
	for _, c := range m.cases {
		if c.id == 0 {
			last++
			c.id = last
		}
	}
}

func wantCurve(t *testing.T, name string, got []float64, want ...float64) {
	t.Helper()
	for i, w := range want {
		if math.Abs(got[i]-w) > margin {
			t.Errorf("%s, trial %d: %.1f %%, want %.0f ± %.0f\n%.0f", name, i+1, got[i], w, margin, got)
			return
		}
	}
}

// ideal is the success of a learner that repeats a lever known to be right and never one that has
// failed: P(sum of K uniform draws from 0…M−1 ≤ t−1).
func ideal(c corridor, trial int) float64 {
	sums := []float64{1} // probabilities of the sum
	for range c.doors {
		next := make([]float64, len(sums)+c.levers-1)
		for s, p := range sums {
			for d := range c.levers {
				next[s+d] += p / float64(c.levers)
			}
		}
		sums = next
	}
	total := 0.0
	for s, p := range sums {
		if s <= trial {
			total += 100 * p
		}
	}
	return total
}

func notAboveIdeal(t *testing.T, name string, c corridor, got []float64) {
	t.Helper()
	for i, v := range got {
		if v > ideal(c, i)+margin {
			t.Errorf("%s, trial %d: %.1f %%, above the ideal learner's %.1f %%", name, i+1, v, ideal(c, i))
		}
	}
}

func TestIdealLearner(t *testing.T) {
	for i, want := range []float64{1.6, 6.2, 15.6, 31.2, 50.0, 68.8, 84.4, 93.8, 98.4, 100} {
		if got := ideal(corridor{doors: 3, levers: 4}, i); math.Abs(got-want) > 0.051 {
			t.Errorf("trial %d: %.2f %%, want %.1f", i+1, got, want)
		}
	}
}

func names(actions []Action) (out []string) {
	for _, a := range actions {
		out = append(out, a.Text)
	}
	return out
}

// told is a phrase that U reads: "good|bad,bad".
func told(_ string, good, bad []Action) string {
	return strings.Join(names(good), ",") + "|" + strings.Join(names(bad), ",")
}

// obey pulls the encouraged lever, or one that is not discouraged.
func obey(rng *rand.Rand, levers int, tips []memory.Tip) (lever int, shown []int64) {
	avoid := map[string]bool{}
	for _, tip := range tips {
		shown = append(shown, tip.ID)
		good, bad, _ := strings.Cut(tip.Text, "|")
		if good != "" {
			_, _ = fmt.Sscan(good, &lever)
			return lever, shown
		}
		for name := range strings.SplitSeq(bad, ",") {
			avoid[name] = true
		}
	}
	var free []int
	for l := range levers {
		if !avoid[fmt.Sprint(l)] {
			free = append(free, l)
		}
	}
	if len(free) == 0 {
		return rng.IntN(levers), shown
	}
	return free[rng.IntN(len(free))], shown
}

// obeying is U with the recollections of a method.
func obeying[T any](c corridor, s method[T]) func(m *scope[T]) pull {
	return func(m *scope[T]) pull {
		return func(rng *rand.Rand, door int) (int, []int64) {
			q := query{text: fmt.Sprint("door ", door), vector: vectorOf(door), rng: rng}
			return obey(rng, c.levers, s.recall(q, m).Tips)
		}
	}
}

func TestCurvesOfRememberer(t *testing.T) {
	f := func(name string, c corridor, horizon int, want ...float64) {
		t.Helper()
		r := Rememberer{RemembererConfig{Phrase: told, K: 1, Threshold: 0.5, Capacity: 500, Actions: 20, Discount: 1,
			Horizon: horizon}}
		got := curve(c, 10, method[record](r), obeying(c, method[record](r)))
		wantCurve(t, name, got, want...)
		notAboveIdeal(t, name, c, got)
	}
	f("one door", corridor{doors: 1, levers: 4}, 0, 25, 50, 75, 100, 100)
	f("partial score", corridor{doors: 3, levers: 4}, 0, 2, 7, 16, 32, 50, 69, 86, 94, 99, 100)
	// A right first lever of a failed walk gets the return 0, and is discouraged.
	f("sparse score", corridor{doors: 3, levers: 4, sparse: true}, 0, 1, 3, 4, 6, 8, 9, 11, 12, 14, 16)
	f("sparse score, 1-step bootstrap", corridor{doors: 3, levers: 4, sparse: true}, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2)
}

func TestCurvesOfJitRL(t *testing.T) {
	one, three := corridor{doors: 1, levers: 4}, corridor{doors: 3, levers: 4}
	alarm := func(c corridor) corridor { c.alarm = -1; return c }
	f := func(name string, c corridor, j JitRLConfig, want ...float64) {
		t.Helper()
		j.Neighbours, j.Threshold, j.Capacity, j.Discount = 10, 0.95, 1000, 0.5
		s := JitRL{j}
		var all []memory.Candidate
		for l := range c.levers {
			all = append(all, memory.Candidate{Action: fmt.Sprint(l)})
		}
		got := curve(c, 10, method[step](s), func(m *scope[step]) pull {
			return func(rng *rand.Rand, door int) (lever int, shown []int64) {
				_, _ = fmt.Sscan(s.choose(query{text: fmt.Sprint("door ", door), rng: rng}, all, m), &lever)
				return lever, nil
			}
		})
		wantCurve(t, name, got, want...)
		notAboveIdeal(t, name, c, got)
	}
	f("no effect at β 0", one, JitRLConfig{}, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25)
	f("β 3", one, JitRLConfig{Beta: 3}, 26, 42, 55, 65, 73, 79, 82, 85, 87, 89)
	f("β 1", one, JitRLConfig{Beta: 1}, 25, 32, 43, 45, 51, 51, 55, 55, 59, 58)
	f("β 10, alarm -1", alarm(one), JitRLConfig{Beta: 10}, 25, 51, 76, 100)
	f("three doors, alarm -1", alarm(three), JitRLConfig{Beta: 10}, 1, 3, 4, 6, 12, 20, 27, 51, 75, 98)
	f("three doors, alarm 0", three, JitRLConfig{Beta: 10}, 2, 5, 10, 16, 23, 30, 39, 47, 53, 60)
	f("three doors, α too large", three, JitRLConfig{Beta: 10, Explore: 0.65, Bonus: 5}, 2, 2, 2, 2, 5, 7, 11, 19, 28, 38)
	f("three doors, α fits", three, JitRLConfig{Beta: 10, Explore: 0.65, Bonus: 0.1}, 2, 2, 5, 12, 26, 42, 56, 66, 71, 76)
}

func TestCurvesOfReflexion(t *testing.T) {
	c := corridor{doors: 1, levers: 6}
	f := func(window int, want ...float64) {
		t.Helper()
		r := Reflexion{ReflexionConfig{Window: window, Capacity: 100}}
		got := make([]float64, 10)
		rng := rand.New(rand.NewPCG(5, 6))
		for range repetitions {
			right, m, solved := []int{rng.IntN(c.levers)}, &scope[reflection]{}, false
			for trial := range got {
				e := c.walk(rng, right, obeying(c, method[reflection](r))(m))
				if e.Tip.Text = "|" + e.Turns[0].Action; !solved { // success is cumulative
					solved = e.Success
					r.learn(e, m)
				}
				if solved {
					got[trial] += 100.0 / repetitions
				}
			}
		}
		wantCurve(t, fmt.Sprint("window ", window), got, want...)
		notAboveIdeal(t, fmt.Sprint("window ", window), c, got)
	}
	f(3, 17, 33, 50, 67, 78, 85, 90, 94, 96, 97)
	f(0, 17, 33, 50, 67, 83, 100, 100, 100, 100, 100)
}

// twoCases is the task that separates learnt retrieval from similarity: the state resembles case A
// (similarity .9, success .25) more than case B (.8, success 1). store has both cases.
func twoCases[T any](trials int, s method[T], store func(m *scope[T], name string, vector []float32)) []float64 {
	at := func(cosine float64) []float32 {
		return []float32{float32(cosine), float32(math.Sqrt(1 - cosine*cosine))}
	}
	rng, out := rand.New(rand.NewPCG(21, 22)), make([]float64, trials)
	state := []float32{1, 0}
	chance := func(p float64) float64 {
		if rng.Float64() < p {
			return 1
		}
		return 0
	}
	for range repetitions {
		m := &scope[T]{}
		store(m, "A", at(.9))
		store(m, "B", at(.8))
		m.settle()
		for trial := range out {
			tip := s.recall(query{text: "now", vector: state, rng: rng}, m).Tips[0]
			won := chance(map[bool]float64{false: .25, true: 1}[strings.Contains(tip.Text, "B")])
			without := chance(.25)
			out[trial] += 100 * won / repetitions
			s.learn(episode{memory.Experience{Return: won, Success: won == 1, WithoutTips: &without, States: []string{""},
				Turns: []memory.Turn{{Action: "pull", Reward: won, Shown: []int64{tip.ID}}}}, [][]float32{state}}, m)
		}
	}
	return out
}

func TestCurvesOfMemento(t *testing.T) {
	s := Memento{MementoConfig{Phrase: told, K: 1, Candidates: 2, Capacity: 9, Temperature: 0.2, Rate: 0.3}}
	store := func(m *scope[experienced], name string, v []float32) {
		m.add([]string{name}, [][]float32{v}, experienced{Action: name, Return: 1})
	}
	wantCurve(t, "soft Q", twoCases(10, method[experienced](s), store), 63, 72, 78, 83, 87, 90, 92, 93, 94, 96)
	s.config.Temperature = 0
	wantCurve(t, "similarity", twoCases(10, method[experienced](s), store), 25, 25, 25, 25, 25, 25, 25, 25, 25, 25)
}

func TestCurvesOfUMem(t *testing.T) {
	store := func(m *scope[useful], name string, v []float32) {
		m.add([]string{name}, [][]float32{v}, useful{Tip: memory.Tip{Text: name}, Utility: belief{0, 1}})
	}
	f := func(c UMemConfig) []float64 {
		c.K, c.Capacity, c.Noise = 1, 9, 1
		return twoCases(20, method[useful](UMem{c}), store)
	}
	sampling := f(UMemConfig{Lambda: 0.5})
	wantCurve(t, "Thompson sampling", sampling, 60, 65, 68, 71, 74, 76, 78, 80, 81, 83)
	if math.Abs(sampling[19]-91) > margin || sampling[17] < 85-margin {
		t.Errorf("Thompson sampling: trial 18 %.1f %%, trial 20 %.1f %%", sampling[17], sampling[19])
	}
	greedy := f(UMemConfig{Lambda: 0.5, Greedy: true})
	if math.Abs(greedy[4]-58) > margin || math.Abs(greedy[16]-72) > margin {
		t.Errorf("greedy twin: trial 5 %.1f %%, trial 17 %.1f %%, want 58 and 72", greedy[4], greedy[16])
	}
	wantCurve(t, "similarity", f(UMemConfig{}), slices.Repeat([]float64{25}, 20)...)
}

// With credit the useless tip sinks: its worth goes to 0, that of the other to 3/4.
func TestCurveOfCredit(t *testing.T) {
	store := func(m *scope[credited], name string, v []float32) {
		m.add([]string{name}, [][]float32{v}, credited{Tip: memory.Tip{Text: name}})
	}
	got := twoCases(40, method[credited](Credit{CreditConfig{K: 1, Capacity: 9}}), store)
	if math.Abs(got[0]-25) > margin || got[39] < 60 {
		t.Errorf("trial 1: %.1f %%, trial 40: %.1f %%, want 25 and at least 60\n%.0f", got[0], got[39], got)
	}
}

// Ten stored walks, one of which names the right lever. The prefilter puts it at rank 8. One tip is
// shown. A useless tip leaves U with the success of chance.
func TestCurveOfMemSifter(t *testing.T) {
	s := MemSifter{MemSifterConfig{K: 1, Prefilter: 10, Capacity: 20, Prior: 1}}
	rng, got := rand.New(rand.NewPCG(31, 32)), make([]float64, 30)
	for range repetitions {
		m := &scope[sifted]{}
		for i := range 10 {
			text := "useless"
			if i == 7 {
				text = "right"
			}
			cosine := 0.9 - 0.01*float64(i)
			v := []float32{float32(cosine), float32(math.Sqrt(1 - cosine*cosine))}
			m.add([]string{fmt.Sprint(i)}, [][]float32{v}, sifted{Tip: memory.Tip{Text: text}})
		}
		m.settle()
		for trial := range got {
			tip := s.recall(query{vector: []float32{1, 0}, rng: rng}, m).Tips[0]
			e := episode{Experience: memory.Experience{Turns: []memory.Turn{{Shown: []int64{tip.ID}}}}}
			if tip.Text == "right" || rng.Float64() < 0.25 {
				e.Return = 1
				got[trial] += 100.0 / repetitions
			}
			without := 0.25
			e.WithoutTips = &without
			s.learn(e, m)
			m.settle()
		}
	}
	wantCurve(t, "first", got, 25, 25, 25, 25, 25, 25, 25, 100)
	if got[29] < 100-margin {
		t.Errorf("trial 30: %.1f %%, want 100\n%.0f", got[29], got)
	}
}

// The lever changes: the stale tip is more similar, the new one is recent. U obeys the first tip.
func TestCurveOfTheGate(t *testing.T) {
	g := Gated{GatedConfig{K: 2, Capacity: 9, Powers: 1, Rate: 1, Epochs: 3, Margin: MarginLinear, Decay: 0.2}}
	m := &scope[remembered]{}
	at := func(cosine float64) [][]float32 {
		return [][]float32{{float32(cosine), float32(math.Sqrt(1 - cosine*cosine))}}
	}
	state := []float32{1, 0}
	g.learn(episode{memory.Experience{States: []string{"stale"}, Tip: memory.Tip{Text: "stale"}}, at(.80)}, m)
	first, last := -1, false
	for trial := range 30 {
		g.learn(episode{memory.Experience{States: []string{"new"}, Tip: memory.Tip{Text: "new"}}, at(.75)}, m)
		m.settle()
		var ids []int64
		tips := g.recall(query{vector: state}, m).Tips
		for _, tip := range tips {
			ids = append(ids, tip.ID)
		}
		last = tips[0].Text == "new"
		if last && first < 0 {
			first = trial
		}
		g.learn(episode{memory.Experience{Success: last, States: []string{"now"},
			Turns: []memory.Turn{{Shown: ids}}}, [][]float32{state}}, m)
	}
	if first < 1 || !last {
		t.Errorf("the new tip is first from trial %d on, and at the end: %v", first, last)
	}
}
