package webshop

import (
	"math"
	"strings"
	"testing"
)

// An accepted item has one or two prices that are finite and not negative.
func FuzzItem(f *testing.F) {
	f.Add([]byte(`{"asin": "B0", "name": "a", "pricing": "$1.50$2", "small_description": ["x"],
"customization_options": {"size": [{"value": "a/b"}], "color": null}}`))
	f.Add([]byte(`{"pricing": "$1e400", "small_description": "x", "customization_options": {"a": [1]}}`))
	f.Add([]byte(`{"customization_options": {`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, prices, err := parseProduct(text)
		if err != nil {
			return
		}
		if len(prices) < 1 || len(prices) > 2 {
			t.Fatalf("%d prices", len(prices))
		}
		for _, price := range prices {
			if price < 0 || math.IsNaN(price) || math.IsInf(price, 0) {
				t.Fatalf("the price %v is accepted", price)
			}
		}
		_ = p.document()
	})
}

// The files of notes and wishes are read or refused.
func FuzzNotes(f *testing.F) {
	f.Add(`{"B0": {"attributes": ["a"], "instruction": "b"}, "B1": {"attributes": null}}`)
	f.Add(`{"B0": [{"instruction": "b", "instruction_options": []}]}`)
	f.Add(`{"B0": `)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := readNotes(strings.NewReader(text), interner{}, true)
		if err == nil && len(all) > len(text) {
			t.Fatalf("%d notes", len(all))
		}
		if wishes, err := readWishes(strings.NewReader(text)); err == nil && len(wishes) > len(text) {
			t.Fatalf("%d wishes", len(wishes))
		}
	})
}
