package webshop

import (
	"fmt"
	"slices"
	"strings"
)

// A goal is something to buy. Its text is generated when needed, so millions of goals
// fit into memory.
type goal struct {
	product int32
	variant int32 // combination of options, or number of the wish
	limit   int32 // highest price in dollars; 0: no limit
}

// noLimit is the price limit in the original of a goal without a limit.
const noLimit = 1_000_000

// A goalSet has all goals of a catalogue in the original's order. It is read-only.
type goalSet struct {
	c      *catalogue
	goals  []goal
	wishes map[string][]wish // nil if the goals are synthetic
	notes  notes
	counts map[string]int // goals by attribute
}

// A wanted is a goal with its texts.
type wanted struct {
	product     *product
	instruction string
	attributes  []string
	options     []wantedOption
	limit       float64 // dollars
}

// A wantedOption is an option value. Synthetic goals also have its group. For these
// the original compares the pair, not the value.
type wantedOption struct {
	group string
	value string
	pair  bool
}

// collectGoals lists the goals in the order of the products, and draws their price
// limits.
func (s *goalSet) collectGoals(random *pyRandom) error {
	s.counts = make(map[string]int)
	for i := range s.c.heads {
		var err error
		if s.wishes != nil {
			s.human(int32(i), random)
		} else {
			err = s.synthetic(int32(i), random)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *goalSet) human(i int32, random *pyRandom) {
	h := &s.c.heads[i]
	for n, w := range s.wishes[h.asin] {
		if len(w.Attributes) == 0 {
			continue
		}
		s.goals = append(s.goals, goal{i, int32(n), drawLimit(h.price, random)})
	}
}

func (s *goalSet) synthetic(i int32, random *pyRandom) error {
	h := &s.c.heads[i]
	n := s.notes[h.asin]
	if n.Instruction == nil {
		return nil
	}
	if len(n.InstructionAttributes) == 0 {
		return fmt.Errorf("item %s has an instruction without instruction_attributes", h.asin)
	}
	limit := drawLimit(h.price, random)
	for v := range h.choices {
		s.goals = append(s.goals, goal{i, v, limit})
	}
	for _, a := range n.InstructionAttributes {
		s.counts[a] += int(h.choices)
	}
	return nil
}

// drawLimit draws two of the next four multiples of ten above a price and returns the
// larger one. The multiples end at 990 dollars. Without one there is no limit.
func drawLimit(price float64, random *pyRandom) int32 {
	first := 10
	for float64(first) <= price && first < 1000 {
		first += 10
	}
	n := min((1000-first)/10, 4)
	if n < 2 {
		return 0
	}
	return int32(first + 10*slices.Max(random.sample(n, 2)))
}

// want generates the texts of goal i.
func (s *goalSet) want(i int) (*wanted, error) {
	g := s.goals[i]
	p, err := s.c.product(g.product)
	if err != nil {
		return nil, err
	}
	w := &wanted{product: p, limit: noLimit}
	suffix := ""
	if g.limit != 0 {
		w.limit = float64(g.limit)
		suffix = fmt.Sprintf(", and price lower than %d.00 dollars", g.limit)
	}
	if s.wishes != nil {
		wish := s.wishes[p.asin][g.variant]
		w.attributes = wish.Attributes
		for _, o := range wish.Options {
			w.options = append(w.options, wantedOption{value: o})
		}
		w.instruction = strings.Trim(wish.Instruction, ".") + suffix
		return w, nil
	}
	n := s.notes[p.asin]
	w.attributes = n.InstructionAttributes
	w.options = combination(p.options, g.variant)
	w.instruction = *n.Instruction + optionText(w.options) + suffix
	return w, nil
}

// combination is element v of the product of all option groups. The groups are sorted
// by name, and the last one changes fastest.
func combination(groups []optionGroup, v int32) []wantedOption {
	byName := func(a, b optionGroup) int { return strings.Compare(a.name, b.name) }
	sorted := slices.SortedFunc(slices.Values(groups), byName)
	options := make([]wantedOption, len(sorted))
	for i := len(sorted) - 1; i >= 0; i-- {
		values := sorted[i].values
		n := int32(len(values))
		options[i] = wantedOption{group: sorted[i].name, value: values[v%n], pair: true}
		v /= n
	}
	return options
}

func optionText(options []wantedOption) string {
	var b strings.Builder
	for i, o := range options {
		if i == 0 {
			b.WriteString(" with ")
		} else {
			b.WriteString(", and ")
		}
		b.WriteString(o.group + ": " + o.value)
	}
	return b.String()
}

// weight is the relative frequency of goal i in random sessions.
func (s *goalSet) weight(i int) float64 {
	if s.wishes != nil {
		return 1
	}
	attributes := s.notes[s.c.heads[s.goals[i].product].asin].InstructionAttributes
	sum := 0.0
	for _, a := range attributes {
		sum += 1 / float64(s.counts[a])
	}
	return sum / float64(len(attributes))
}
