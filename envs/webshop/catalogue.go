package webshop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
)

// A head is the part of a product that is always in memory.
type head struct {
	asin       string
	query      string // shared with other heads, like category and attributes
	category   string
	price      float64 // in dollars; drawn once if the data has a range
	offset     int64   // of the item in the file, if the products are not in memory
	length     int32
	choices    int32 // combinations of option values
	attributes []string
}

// A catalogue has the products. A small catalogue is in memory. Of a large one only the
// heads are in memory, and a product is read from the file when a page shows it. A
// catalogue is safe for concurrent use.
type catalogue struct {
	heads    []head
	byASIN   map[string]int32
	resident []*product // nil if the products are read from the file
	file     *os.File
	recent   *lru.Cache[int32, *product] // products read from the file
}

// product returns product i. It must not be changed.
func (c *catalogue) product(i int32) (*product, error) {
	if c.resident != nil {
		return c.resident[i], nil
	}
	if p, ok := c.recent.Get(i); ok {
		return p, nil
	}
	h := &c.heads[i]
	raw := make([]byte, h.length)
	if _, err := c.file.ReadAt(raw, h.offset); err != nil {
		return nil, fmt.Errorf("webshop: read item %s again: %w", h.asin, err)
	}
	p, _, err := parseProduct(raw)
	if err == nil && p.asin != h.asin {
		err = errors.New("there is another item at its offset")
	}
	if err != nil {
		return nil, fmt.Errorf("webshop: item %s: %s changed while it was open: %w", h.asin, c.file.Name(), err)
	}
	p.attributes = h.attributes
	c.recent.Add(i, p)
	return p, nil
}

func (c *catalogue) close() error {
	if c.file == nil {
		return nil
	}
	return c.file.Close()
}

// cachedProducts is the number of products that stay in memory if they are read from the
// file. A product takes about 5 kB.
const cachedProducts = 8192

func newProductCache() *lru.Cache[int32, *product] {
	recent, err := lru.New[int32, *product](cachedProducts)
	if err != nil {
		panic(err) // the size is positive
	}
	return recent
}

// A loader reads the items file into a catalogue and an index.
type loader struct {
	notes    notes
	random   *pyRandom
	index    *indexBuilder
	strings  interner
	resident bool
	limit    int // products read; 0: all
	c        *catalogue
}

// load reads the items one by one, so only one of them is decoded at a time.
func (l *loader) load(ctx context.Context, r io.Reader) error {
	l.c = &catalogue{byASIN: make(map[string]int32), recent: newProductCache()}
	if l.resident {
		l.c.resident = []*product{}
	}
	dec := json.NewDecoder(bufio.NewReaderSize(r, 1<<20))
	if err := expect(dec, '['); err != nil {
		return err
	}
	for n := 0; dec.More() && (l.limit == 0 || n < l.limit); n++ {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("item %d: %w", n, err)
		}
		if err := l.add(raw, dec.InputOffset()-int64(len(raw))); err != nil {
			return err
		}
	}
	if !dec.More() { // the limit may leave a part of the list
		if err := finish(dec); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func (l *loader) add(raw []byte, offset int64) error {
	p, prices, err := parseProduct(raw)
	if err != nil {
		return err
	}
	c := l.c
	if _, ok := c.byASIN[p.asin]; ok || p.asin == "nan" || utf8.RuneCountInString(p.asin) > 10 {
		return nil
	}
	h := head{asin: p.asin, query: l.strings.one(p.query), category: l.strings.one(p.category),
		price: prices[0], offset: offset, length: int32(len(raw)), choices: 1}
	if len(prices) == 2 {
		h.price = l.random.uniform(prices[0], prices[1])
	}
	for _, g := range p.options {
		if n := int64(h.choices) * int64(len(g.values)); n < 1<<31 {
			h.choices = int32(n)
		} else {
			return fmt.Errorf("item %s: more than 2^31 combinations of options", p.asin)
		}
	}
	h.attributes = l.notes.attributes(p.asin)
	p.attributes = h.attributes
	l.index.add(p.document())
	c.byASIN[h.asin] = int32(len(c.heads))
	c.heads = append(c.heads, h)
	if l.resident {
		c.resident = append(c.resident, p)
	}
	return nil
}
