package admission

import (
	"slices"
	"time"
)

const (
	// minAnswers is how many answers a place must have given before it is compared.
	minAnswers = 4
	// recentAnswers is over how many answers a pace is averaged.
	recentAnswers = 8
	// paceLasts is how long a place is slow after its last answer. It is then tried
	// again, and compared by its new answers.
	paceLasts = 30 * time.Second
	// slowFrom is from which multiple of the others' pace on a place counts as slow.
	// Below it, the difference may come from the requests.
	slowFrom = 2
	// slowest bounds the slowness, so that a slow place gets some requests under load.
	slowest = 16
)

// A pace is a place's time per token, averaged over its latest answers.
type pace struct {
	answers int
	seconds float64 // moving sum
	tokens  float64 // moving sum
	last    time.Time
}

func (p *pace) add(tokens int, took time.Duration) {
	if !p.recent() {
		p.seconds, p.tokens = 0, 0
	}
	const keep = 1 - 1.0/recentAnswers
	p.answers++
	p.seconds = keep*p.seconds + took.Seconds()
	p.tokens = keep*p.tokens + float64(tokens)
	p.last = time.Now()
}

func (p *pace) recent() bool { return time.Since(p.last) <= paceLasts }

// perToken returns seconds per token, or 0 if it is not known.
func (p *pace) perToken() float64 {
	if p.answers < minAnswers {
		return 0
	}
	return p.seconds / p.tokens
}

// Answered tells that the place took so long for a request with an answer of so many
// tokens, from its admission on. The places' paces are compared with it.
func (p *Place) Answered(tokens int, took time.Duration) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.pace.add(max(tokens, 1), took)
}

// Slowness returns the place's time per token as a multiple of the others', between 1
// and 16. It is 1 if the place is less than twice as slow, or if too little is known.
func (p *Place) Slowness() float64 {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	return p.slowness()
}

func (p *Place) slowness() float64 {
	own := p.pace.perToken()
	if own == 0 || len(p.queue.places) == 1 || !p.pace.recent() {
		return 1
	}
	others := p.queue.othersPace(p)
	if others == 0 || own < slowFrom*others {
		return 1
	}
	return min(own/others, slowest)
}

// othersPace returns the median of the other places' seconds per token, the lower one
// of two, or 0 if none is known.
func (q *Queue) othersPace(p *Place) float64 {
	known := make([]float64, 0, len(q.places))
	for _, o := range q.places {
		if t := o.pace.perToken(); o != p && t > 0 {
			known = append(known, t)
		}
	}
	if len(known) == 0 {
		return 0
	}
	slices.Sort(known)
	return known[(len(known)-1)/2]
}

// load is what a further request at the place would wait for: the requests in flight
// and itself, more at a slow place.
func (p *Place) load() float64 { return float64(p.inFlight+1) * p.slowness() }
