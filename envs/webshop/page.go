package webshop

import "strings"

// Mode is the format of a page as text.
type Mode string

const (
	// Text joins the visible texts by " [SEP] ".
	Text Mode = "text"
	// TextRich has one visible text per line. It marks what can be clicked and
	// what was clicked.
	TextRich Mode = "text_rich"
)

// A node is one visible text of a page's HTML.
type node struct {
	text string
	kind nodeKind
}

type nodeKind uint8

const (
	plain nodeKind = iota
	button
	link     // to a product
	choice   // the label of an option value
	verbatim // inside <pre>, where white space is kept
)

// A clickable is the target of click[name].
type clickable struct {
	name    string
	kind    nodeKind
	group   string // of an option value
	product int32  // of a link
}

// A page is a page of the shop.
type page struct {
	nodes      []node
	clickables []clickable
	searchBar  bool
}

// asciiSpace is white space for the original's HTML parser.
const asciiSpace = " \n\t\f\r"

// add appends a text like the original's HTML parser, which keeps white space only if it is
// a blank without a line feed.
func (p *page) add(kind nodeKind, text string) {
	if kind != verbatim && strings.Trim(text, asciiSpace) == "" {
		if text == "" || strings.Contains(text, "\n") {
			return
		}
		text = " "
	}
	if text == "" || text == "\n" {
		return
	}
	p.nodes = append(p.nodes, node{text, kind})
}

// button appends a button that is clickable by its text in lower case.
func (p *page) button(text string) {
	p.add(button, text)
	p.clickable(clickable{name: pyLower(text), kind: button})
}

// clickable appends c. If several have the same name, the first determines the position
// in the list, and the last determines the effect of a click.
func (p *page) clickable(c clickable) {
	for i := range p.clickables {
		if p.clickables[i].name == c.name {
			p.clickables[i] = c
			return
		}
	}
	p.clickables = append(p.clickables, c)
}

func (p *page) find(name string) (clickable, bool) {
	for _, c := range p.clickables {
		if c.name == name {
			return c, true
		}
	}
	return clickable{}, false
}

func (p *page) names() []string {
	names := make([]string, len(p.clickables))
	for i, c := range p.clickables {
		names[i] = c.name
	}
	return names
}

// text renders a page in the mode [Text].
func (p *page) text() string {
	var b strings.Builder
	b.Grow(p.size())
	for i, n := range p.nodes {
		if i > 0 {
			b.WriteString(" [SEP] ")
		}
		b.WriteString(pyStrip(n.text))
	}
	return b.String()
}

// rich renders a page in the mode [TextRich]. A link counts as clicked if its product
// was visited. An option value counts as clicked if the URL has it in quotes.
func (p *page) rich(url string, visited func(asin string) bool) string {
	var b strings.Builder
	b.Grow(p.size())
	for i := len(p.nodes) - 1; i >= 0; i-- {
		if n := p.nodes[i]; n.kind == choice && inQuotes(url, n.text) {
			b.WriteString("You have clicked " + n.text + ".\n")
		}
	}
	for _, n := range p.nodes {
		switch {
		case n.kind == button:
			b.WriteString("[button] " + n.text + " [button_]\n")
		case n.kind == choice && inQuotes(url, n.text):
			b.WriteString("  [clicked button] " + n.text + " [clicked button_]\n")
		case n.kind == choice:
			b.WriteString("  [button] " + n.text + " [button_]\n")
		case n.kind == link && visited(n.text):
			b.WriteString("\n[clicked button] " + n.text + " [clicked button_]\n")
		case n.kind == link:
			b.WriteString("\n[button] " + n.text + " [button_]\n")
		default:
			b.WriteString(n.text + "\n")
		}
	}
	return b.String()
}

func inQuotes(url, text string) bool { return strings.Contains(url, `"`+text+`"`) }

func (p *page) size() int {
	n := 0
	for _, node := range p.nodes {
		n += len(node.text) + 24
	}
	return n
}
