package webshop

import "strings"

// A Purchase has the reward of a bought product and its parts
// (web_agent_site/engine/goal.py).
type Purchase struct {
	// Reward is Type · (attributes + options + price met) / (those wanted), 0 to 1.
	Reward float64 `json:"reward"`
	// Type is the similarity of the kinds of product: 1, 0.5, 0.1 or 0.
	Type          float64 `json:"r_type"`
	QueryMatch    bool    `json:"query_match"`
	CategoryMatch bool    `json:"category_match"`
	TitleScore    float64 `json:"title_score"` // share of the goal's nouns in the title
	Attributes    int     `json:"attributes"`  // number of matches, like Options
	Options       int     `json:"options"`
	PriceMet      bool    `json:"price_met"`
}

// Two phrases match if their token set ratio is above fuzzyMatch.
const fuzzyMatch = 85

// A judge computes rewards. It is not safe for concurrent use.
type judge struct {
	nouns   nounTagger
	matcher matcher
}

// pay returns the reward of buying p at a price with the chosen option values.
func (j *judge) pay(p *product, price float64, chosen []string, w *wanted) Purchase {
	r := j.typeReward(p, w.product)
	r.Attributes = j.attributes(p, w.attributes)
	r.Options = j.options(chosen, w.options)
	r.PriceMet = price <= w.limit
	met := r.Attributes + r.Options
	if r.PriceMet {
		met++
	}
	r.Reward = float64(met) / float64(len(w.attributes)+len(w.options)+1) * r.Type
	return r
}

func (j *judge) typeReward(p, goal *product) Purchase {
	r := Purchase{Type: 1, QueryMatch: p.query == goal.query, TitleScore: 0.2}
	r.CategoryMatch = common(categories(p), categories(goal)) >= 2
	if want := j.nouns.nouns(goal); len(want) > 0 {
		r.TitleScore = float64(common(j.nouns.nouns(p), want)) / float64(len(want))
	}
	switch {
	case r.TitleScore == 0:
		r.Type = 0
	case r.TitleScore < 0.1:
		r.Type = 0.1
	case !r.QueryMatch && !r.CategoryMatch && r.TitleScore <= 0.2:
		r.Type = 0.5
	}
	return r
}

func categories(p *product) []string {
	parts := strings.Split(p.productCategory, "›")
	for i, s := range parts {
		parts[i] = pyStrip(s)
	}
	return parts
}

// common counts the distinct strings in both lists.
func common(a, b []string) int {
	in := make(map[string]bool, len(a))
	for _, s := range a {
		in[s] = true
	}
	n := 0
	for _, s := range b {
		if in[s] {
			in[s] = false
			n++
		}
	}
	return n
}

func (j *judge) attributes(p *product, wanted []string) int {
	n := 0
	var title, bullets, description string
	for _, w := range wanted {
		if j.anyMatches(p.attributes, w) {
			n++
			continue
		}
		if title == "" {
			title, description = pyLower(p.title), pyLower(p.description)
			bullets = pyLower(strings.Join(p.bullets, " "))
		}
		if strings.Contains(title, w) || strings.Contains(bullets, w) || strings.Contains(description, w) {
			n++
		}
	}
	return n
}

func (j *judge) options(chosen []string, wanted []wantedOption) int {
	normal := make([]string, len(chosen))
	for i, c := range chosen {
		normal[i] = colourOf(c)
	}
	n := 0
	for _, w := range wanted {
		if j.anyMatches(normal, w.normalized()) {
			n++
		}
	}
	return n
}

func (j *judge) anyMatches(have []string, want string) bool {
	for _, h := range have {
		if j.matcher.tokenSetRatio(h, want) > fuzzyMatch {
			return true
		}
	}
	return false
}
