package webshop

import "strconv"

const (
	backToSearch = "Back to Search"
	nextPage     = "Next >"
	prevPage     = "< Prev"
	buyNow       = "Buy Now"

	resultsPerPage = 10
	resultsMax     = 50
)

// subPages are the further pages of a product. The original has no link to Attributes,
// but opens this page if an option value has that name.
var subPages = []string{"Description", "Features", "Reviews", "Attributes"}

func searchPage(instruction string) *page {
	p := &page{searchBar: true}
	p.add(plain, "WebShop")
	p.add(plain, "Instruction: ")
	p.add(plain, instruction)
	p.button("Search")
	return p
}

// header is the beginning of every page but the first.
func header(instruction string) *page {
	p := &page{nodes: make([]node, 0, 48), clickables: make([]clickable, 0, 24)}
	p.add(plain, "Instruction:")
	p.add(plain, instruction)
	p.button(backToSearch)
	return p
}

// resultsPage lists the products of one page out of total results.
func resultsPage(c *catalogue, instruction string, number, total int, shown []int32) (*page, error) {
	p := header(instruction)
	p.add(plain, "Page "+strconv.Itoa(number)+" (Total results: "+strconv.Itoa(total)+")")
	if number > 1 {
		p.button(prevPage)
	}
	p.button(nextPage)
	for _, i := range shown {
		item, err := c.product(i)
		if err != nil {
			return nil, err
		}
		p.add(link, item.asin)
		p.add(plain, item.title)
		p.add(plain, item.price)
		p.clickable(clickable{name: pyLower(item.asin), kind: link, product: i})
	}
	return p, nil
}

// itemPage shows a product and its options. The option values are the last clickables.
func itemPage(instruction string, item *product) *page {
	p := header(instruction)
	p.button(prevPage)
	for _, g := range item.options {
		p.add(plain, g.name)
		for _, v := range g.values {
			p.add(choice, v)
		}
	}
	p.add(plain, item.title)
	p.add(plain, "Price: "+item.price)
	p.add(plain, "Rating: N.A.")
	p.button("Description")
	p.button("Features")
	p.button("Reviews")
	p.button(buyNow)
	for _, g := range item.options {
		for _, v := range g.values {
			p.clickable(clickable{name: v, kind: choice, group: g.name})
		}
	}
	return p
}

// subPage shows one part of a product. The data has no reviews.
func subPage(instruction string, item *product, name string) *page {
	p := header(instruction)
	p.button(prevPage)
	switch name {
	case "Description":
		p.add(plain, item.description)
	case "Features":
		for _, b := range item.bullets {
			p.add(plain, " "+b)
		}
	case "Attributes":
		for _, a := range item.attributes {
			p.add(plain, " "+a)
		}
		p.add(plain, item.category)
		p.add(plain, item.query)
		p.add(plain, item.productCategory)
	}
	return p
}

// donePage ends the session. Several values on the original's page are undefined. They
// are part of its text.
func donePage(asin, options string, reward float64) *page {
	p := new(page)
	add := func(kind nodeKind, texts ...string) {
		for _, t := range texts {
			p.add(kind, t)
		}
	}
	field := func(name, value string) {
		p.add(plain, name)
		p.add(verbatim, value)
	}
	add(plain, "Thank you for shopping with us!")
	field("Your code: ", "None")
	add(plain, " (Paste it in your MTurk interface.)", "Purchased")
	field("asin", asin)
	field("options", options)
	for _, name := range []string{"attrs", "category", "query", "product category"} {
		field(name, "None")
	}
	add(plain, "Target", "asin", "options", "attrs", "price upper", "instuction text", "category",
		"product category", "query")
	field("Goal ", "None")
	add(plain, "Reward")
	field("Your score (min 0.0, max 1.0)", pyFloat(reward))
	field("Reward Details ", "None")
	return p
}
