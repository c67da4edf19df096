package webshop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// A product is an item as the shop shows it.
type product struct {
	asin            string
	title           string
	description     string
	bullets         []string
	options         []optionGroup // in the order of the data
	price           string        // as shown, "$5.49 to $7.99"
	query           string
	category        string
	productCategory string
	attributes      []string
}

// An optionGroup has the values of one option of a product, for example its sizes.
type optionGroup struct {
	name   string
	values []string
}

// An item is a product in items_shuffle*.json.
type item struct {
	ASIN             string          `json:"asin"`
	Name             string          `json:"name"`
	FullDescription  string          `json:"full_description"`
	SmallDescription json.RawMessage `json:"small_description"`
	Pricing          string          `json:"pricing"`
	Category         string          `json:"category"`
	Query            string          `json:"query"`
	ProductCategory  string          `json:"product_category"`
	Customization    json.RawMessage `json:"customization_options"`
}

// parseProduct reads an item. The second result is its price in dollars: one number, or
// the two ends of a range.
func parseProduct(raw []byte) (*product, []float64, error) {
	var it item
	if err := json.Unmarshal(raw, &it); err != nil {
		return nil, nil, fmt.Errorf("item: %w", safetext.JSONError(err))
	}
	p := &product{
		asin:            it.ASIN,
		title:           it.Name,
		description:     it.FullDescription,
		query:           pyStrip(pyLower(it.Query)),
		category:        it.Category,
		productCategory: it.ProductCategory,
	}
	prices, err := parsePricing(it.Pricing)
	if err != nil {
		return nil, nil, fmt.Errorf("item %s: pricing %q: %w", it.ASIN, it.Pricing, err)
	}
	p.price = "$" + pyFloat(prices[0])
	if len(prices) > 1 {
		p.price += " to $" + pyFloat(prices[1])
	}
	if p.bullets, err = parseBullets(it.SmallDescription); err != nil {
		return nil, nil, fmt.Errorf("item %s: small_description: %w", it.ASIN, err)
	}
	if p.options, err = parseOptions(it.Customization); err != nil {
		return nil, nil, fmt.Errorf("item %s: customization_options: %w", it.ASIN, err)
	}
	return p, prices, nil
}

// parsePricing reads "$19.99$27.99". An item without a price costs 100.
func parsePricing(s string) ([]float64, error) {
	if s == "" {
		return []float64{100}, nil
	}
	var prices []float64
	for _, part := range strings.Split(s, "$")[1:] {
		digits := strings.Map(func(r rune) rune {
			if r == '.' || unicode.IsDigit(r) {
				return r
			}
			return -1
		}, part)
		price, err := strconv.ParseFloat(digits, 64)
		if err != nil {
			return nil, err
		}
		prices = append(prices, price)
	}
	if len(prices) == 0 {
		return nil, fmt.Errorf("there is no amount in dollars")
	}
	return prices[:min(len(prices), 2)], nil
}

func parseBullets(raw json.RawMessage) ([]string, error) {
	if len(raw) > 0 && raw[0] == '"' {
		var one string
		err := json.Unmarshal(raw, &one)
		return []string{one}, err
	}
	var list []string
	if len(raw) == 0 {
		return nil, nil
	}
	err := json.Unmarshal(raw, &list)
	return list, err
}

// parseOptions keeps the order of the keys. It ignores groups that are null. If the names
// of several groups differ only in case, it uses the last one.
func parseOptions(raw json.RawMessage) ([]optionGroup, error) {
	if len(raw) == 0 || raw[0] != '{' {
		return nil, nil
	}
	var groups []optionGroup
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var contents *[]struct {
			Value string `json:"value"`
		}
		if err := dec.Decode(&contents); err != nil {
			return nil, err
		}
		if contents == nil {
			continue
		}
		g := optionGroup{name: pyLower(key.(string)), values: make([]string, len(*contents))}
		for i, c := range *contents {
			g.values[i] = pyLower(strings.ReplaceAll(pyStrip(c.Value), "/", " | "))
		}
		groups = withGroup(groups, g)
	}
	return groups, nil
}

func withGroup(groups []optionGroup, g optionGroup) []optionGroup {
	for i := range groups {
		if groups[i].name == g.name {
			groups[i] = g
			return groups
		}
	}
	return append(groups, g)
}

// document is the text of a product in the search index.
func (p *product) document() string {
	var b strings.Builder
	b.WriteString(p.title)
	b.WriteByte(' ')
	b.WriteString(p.description)
	b.WriteByte(' ')
	if len(p.bullets) > 0 {
		b.WriteString(p.bullets[0])
	}
	b.WriteByte(' ')
	for i, g := range p.options {
		if i > 0 {
			b.WriteString(", and ")
		}
		b.WriteString(g.name + ": " + strings.Join(g.values, ", "))
	}
	return pyLower(b.String())
}
