package webshop

import (
	"slices"
	"strings"
)

// optionsJSON is json.dumps of the chosen options.
func optionsJSON(options []selection) string {
	var b strings.Builder
	writeOptions(&b, options, pyJSON)
	return b.String()
}

// optionsHTML is Flask's tojson of the chosen options: sorted keys, and the special
// characters of HTML escaped.
func optionsHTML(options []selection) string {
	byGroup := func(a, b selection) int { return strings.Compare(a.group, b.group) }
	sorted := slices.SortedFunc(slices.Values(options), byGroup)
	var b strings.Builder
	writeOptions(&b, sorted, pyJSON)
	return strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`, "'", `\u0027`).Replace(b.String())
}

// optionsRepr is the repr of the chosen options.
func optionsRepr(options []selection) string {
	var b strings.Builder
	writeOptions(&b, options, func(b *strings.Builder, s string) { b.WriteString(pyRepr(s)) })
	return b.String()
}

func writeOptions(b *strings.Builder, options []selection, write func(*strings.Builder, string)) {
	b.WriteByte('{')
	for i, o := range options {
		if i > 0 {
			b.WriteString(", ")
		}
		write(b, o.group)
		b.WriteString(": ")
		write(b, o.value)
	}
	b.WriteByte('}')
}
