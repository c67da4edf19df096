package webshop

import "strings"

// colours are the colours to which options are reduced, in the order of the search
// (web_agent_site/engine/normalize.py).
var colours = strings.Fields(`
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory
ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom
mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire seashell
silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat
white wine yellow`)

// colourOf is the first colour in s, or s if there is none.
func colourOf(s string) string {
	for _, c := range colours {
		if strings.Contains(s, c) {
			return c
		}
	}
	return s
}

// normalized is the text by which an option of a goal is compared. In the original a
// pair is a Python tuple. A colour is "in" it only if it equals one of the two strings.
// If there is no such colour, the text is the repr of the tuple.
func (o wantedOption) normalized() string {
	if !o.pair {
		return colourOf(o.value)
	}
	for _, c := range colours {
		if o.group == c || o.value == c {
			return c
		}
	}
	return "(" + pyRepr(o.group) + ", " + pyRepr(o.value) + ")"
}
