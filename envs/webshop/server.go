package webshop

import (
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// A server has the sessions of all clients.
type server struct {
	family *Family

	mu       sync.Mutex
	random   *pyRandom
	shoppers map[int]*shopper
	oldest   []int // ids by age
}

// A shopper is one client's session.
type shopper struct {
	mu      sync.Mutex
	session *session
}

const (
	// maxShoppers is the largest number of sessions. Old clients of the protocol
	// never close sessions, so a further client gets the oldest one.
	maxShoppers = 8000
	idRange     = 48_950_077
)

func (s *server) list() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.shoppers))
}

// add starts a session with a random goal.
func (s *server) add() (int, error) {
	session, err := s.session(nil)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.oldest) >= maxShoppers {
		id := s.oldest[0]
		s.oldest = append(s.oldest[1:], id)
		return id, nil
	}
	id := s.random.below(idRange)
	for s.shoppers[id] != nil {
		id = s.random.below(idRange)
	}
	s.shoppers[id] = &shopper{session: session}
	s.oldest = append(s.oldest, id)
	return id, nil
}

// session opens a session with a goal. For nil the goal is drawn by weight.
func (s *server) session(number *int) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, goal := "", 0
	if number != nil {
		id, goal = strconv.Itoa(*number), *number
	} else {
		for range 10 {
			id += string(rune('a' + s.random.below(26)))
		}
		goal = s.family.drawGoal(s.random)
	}
	session, err := s.family.session(goal, id, uint64(s.random.uint32()))
	if err == nil {
		session.open()
	}
	return session, err
}

// lock returns a locked shopper, or nil if the id is unknown.
func (s *server) lock(id int) *shopper {
	s.mu.Lock()
	b := s.shoppers[id]
	s.mu.Unlock()
	if b != nil {
		b.mu.Lock()
	}
	return b
}

func (s *server) remove(id int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shoppers[id] == nil {
		return false
	}
	delete(s.shoppers, id)
	s.oldest = slices.DeleteFunc(s.oldest, func(o int) bool { return o == id })
	return true
}

// drawGoal draws a goal by weight like the original's random_idx, which returns the goal
// after the drawn one.
func (f *Family) drawGoal(random *pyRandom) int {
	f.cumulativeOnce.Do(func() {
		f.cumulative = make([]float64, 1, len(f.goals.goals)+1)
		for i := range f.goals.goals {
			f.cumulative = append(f.cumulative, f.cumulative[i]+f.goals.weight(i))
		}
	})
	n := len(f.cumulative)
	pos := random.uniform(0, f.cumulative[n-1])
	return min(sort.Search(n, func(i int) bool { return f.cumulative[i] > pos }), n-2)
}

// instruction is the heading of the page, the instruction text of the original.
func (p *page) instruction(goal *wanted) string {
	if len(p.nodes) > 0 && p.nodes[0].text == "Instruction:" {
		return "Instruction:" + goal.instruction
	}
	return "Instruction: " + goal.instruction
}

// html is the page with simple markup for people. It is not the original's markup.
func (p *page) html() string {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	var b strings.Builder
	b.WriteString("<!DOCTYPE html>\n<html><body>\n")
	for _, n := range p.nodes {
		tag := map[nodeKind]string{plain: "p", button: "button", link: "a", choice: "label", verbatim: "pre"}[n.kind]
		b.WriteString("<" + tag + ">" + escape.Replace(n.text) + "</" + tag + ">\n")
	}
	b.WriteString("</body></html>\n")
	return b.String()
}
