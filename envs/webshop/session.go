package webshop

import (
	"slices"
	"strconv"
	"strings"
)

// A session is the state machine of the original's SimServer and SimBrowser
// (web_agent_site/envs/web_agent_text_env.py) for one goal. It is not safe for
// concurrent use. The data that sessions share is read-only.
type session struct {
	shop *shop
	id   string
	goal *wanted
	// refused: the last action was malformed or is not on its page.
	refused bool
	random  *pyRandom // for random results; nil until the first use
	seed    uint64

	page     *page
	url      string
	keywords []string
	number   int     // of the results page
	found    []int32 // search results
	current  int32   // product of the item page
	item     *product
	visited  map[string]bool
	options  []selection
	purchase *Purchase // nil before the first purchase
}

// A selection is a chosen option value. Selections are in the order of the first choice
// in each group.
type selection struct{ group, value string }

const baseURL = "http://127.0.0.1:3000/"

// open shows the search page and resets everything but the goal.
func (s *session) open() {
	s.page = searchPage(s.goal.instruction)
	s.url = baseURL + s.id
	s.keywords, s.item, s.options = nil, nil, nil
	s.visited = nil
}

// act performs an action and returns its reward. done is true after a purchase. A
// malformed action, or one that is not on this page, changes nothing.
func (s *session) act(action string) (reward float64, done bool, err error) {
	name, arg := parseAction(action)
	arg = pyLower(arg)
	s.refused = false
	switch {
	case arg == "":
	case name == "search":
		return 0, false, s.search(strings.Split(arg, " "))
	case name == "click" && arg != "search":
		if c, ok := s.page.find(arg); ok {
			return s.click(c)
		}
	}
	s.refused = true
	return 0, false, nil
}

// parseAction splits "name[argument]" like the expression (.+)\[(.+)\]: on the first
// line, from the last possible opening bracket to the last closing bracket.
func parseAction(action string) (name, arg string) {
	line, _, _ := strings.Cut(action, "\n")
	end := strings.LastIndexByte(line, ']')
	if end < 3 {
		return action, ""
	}
	start := strings.LastIndexByte(line[:end-1], '[')
	if start < 1 {
		return action, ""
	}
	return line[:start], line[start+1 : end]
}

func (s *session) click(c clickable) (float64, bool, error) {
	name := pyLower(c.name)
	kind := s.pageKind()
	switch {
	case name == "buy now" && s.item != nil:
		return s.buy(), true, nil
	case name == "back to search":
		s.open()
	case name == "next >" && kind == "search_results":
		return 0, false, s.results(s.number + 1)
	case name == "< prev" && kind == "search_results":
		return 0, false, s.results(s.number - 1)
	case name == "< prev" && kind == "item_page":
		return 0, false, s.results(s.number)
	case name == "< prev" && kind == "item_sub_page":
		return 0, false, s.show(c)
	case isSubPage(name) && s.item != nil:
		s.sub(name)
	default:
		return 0, false, s.show(c)
	}
	return 0, false, nil
}

// pageKind is the first of these names in the URL. Like the original, it is wrong if the
// search text in the URL has one of these names.
func (s *session) pageKind() string {
	for _, kind := range []string{"search_results", "item_page", "item_sub_page", "done"} {
		if strings.Contains(s.url, kind) {
			return kind
		}
	}
	return ""
}

func (s *session) search(keywords []string) error {
	s.keywords = keywords
	if keywords[0] != randomResults {
		s.found = s.shop.find(keywords, s.draw)
	}
	return s.results(1)
}

// draw returns the session's random stream.
func (s *session) draw() *pyRandom {
	if s.random == nil {
		s.random = newPyRandom(s.seed)
	}
	return s.random
}

// results shows a page of search results. Random results are drawn again for each page.
// The current product and its options are reset.
func (s *session) results(number int) error {
	if s.keywords[0] == randomResults {
		s.found = s.shop.find(s.keywords, s.draw)
	}
	s.number, s.item, s.options = number, nil, nil
	shown := pySlice(s.found, (number-1)*resultsPerPage, number*resultsPerPage)
	p, err := resultsPage(s.shop.catalogue, s.goal.instruction, number, len(s.found), shown)
	if err != nil {
		return err
	}
	s.page = p
	s.url = baseURL + "search_results/" + s.id + "/" + strings.Join(s.keywords, "+") + "/" + strconv.Itoa(number)
	return nil
}

// show shows the item page after a click: of another product, with another option
// value, or unchanged.
func (s *session) show(c clickable) error {
	switch c.kind {
	case link:
		item, err := s.shop.catalogue.product(c.product)
		if err != nil {
			return err
		}
		s.current, s.item = c.product, item
		if s.visited == nil {
			s.visited = make(map[string]bool)
		}
		s.visited[item.asin] = true
	case choice:
		s.choose(pyLower(c.group), c.name)
	}
	if s.item == nil {
		return nil
	}
	s.page = itemPage(s.goal.instruction, s.item)
	s.url = s.itemURL("item_page", optionsJSON(s.options))
	return nil
}

func (s *session) choose(group, value string) {
	for i := range s.options {
		if s.options[i].group == group {
			s.options[i].value = value
			return
		}
	}
	s.options = append(s.options, selection{group, value})
}

func isSubPage(name string) bool {
	return slices.ContainsFunc(subPages, func(s string) bool { return pyLower(s) == name })
}

func (s *session) sub(name string) {
	for _, title := range subPages {
		if pyLower(title) == name {
			s.page = subPage(s.goal.instruction, s.item, title)
			s.url = s.itemURL("item_sub_page", title+"/"+optionsRepr(s.options))
		}
	}
}

func (s *session) itemURL(kind, rest string) string {
	return baseURL + kind + "/" + s.id + "/" + s.item.asin + "/" + strings.Join(s.keywords, "+") + "/" +
		strconv.Itoa(s.number) + "/" + rest
}

func (s *session) buy() float64 {
	chosen := make([]string, len(s.options))
	for i, o := range s.options {
		chosen[i] = o.value
	}
	p := s.shop.pay(s.current, s.item, chosen, s.goal)
	s.purchase = &p
	s.page = donePage(s.item.asin, optionsHTML(s.options), p.Reward)
	s.url = baseURL + "done/" + s.id + "/" + s.item.asin + "/" + optionsRepr(s.options)
	return p.Reward
}

// observe renders the page.
func (s *session) observe() string {
	if s.shop.mode == TextRich {
		return s.page.rich(s.url, func(asin string) bool { return s.visited[asin] })
	}
	return s.page.text()
}
