package config

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
)

// defaultsText has every key with its default and its meaning.
//
//go:embed defaults.toml
var defaultsText string

// Default returns the configuration of defaults.toml, before values are derived.
func Default() Config {
	var c Config
	if _, err := toml.Decode(defaultsText, &c); err != nil {
		panic(err) // the file is part of the program, and a test reads it
	}
	return c
}

// keyInfo describes one leaf of Config.
type keyInfo struct {
	kind    string   // "string", "integer", "number", "true or false", "list", "table"
	example string   // its default as TOML
	doc     []string // the lines of its comment in defaults.toml
}

// keys returns every leaf by its dotted name.
var keys = sync.OnceValue(func() map[string]keyInfo {
	out, docs := map[string]keyInfo{}, comments(defaultsText)
	walk(reflect.ValueOf(Default()), "", func(name string, v reflect.Value) {
		out[name] = keyInfo{kindOf(v.Type()), format(v), docs[name]}
	}, nil)
	return out
})

// comments returns the comment lines directly above each key of a TOML text.
func comments(text string) map[string][]string {
	out := map[string][]string{}
	table, above := "", []string(nil)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, _, isKey := strings.Cut(line, " = ")
		switch {
		case strings.HasPrefix(line, "#"):
			above = append(above, strings.TrimSpace(line[1:]))
			continue
		case strings.HasPrefix(line, "["):
			table = strings.Trim(line, "[]") + "."
		case isKey:
			out[table+key] = above
		}
		above = nil
	}
	return out
}

// walk calls leaf for each leaf and table for each table, in source order,
// leaves before sub-tables.
func walk(v reflect.Value, prefix string, leaf func(name string, v reflect.Value), table func(name string)) {
	t := v.Type()
	for pass := range 2 {
		for i := range t.NumField() {
			f := t.Field(i)
			name := prefix + f.Tag.Get("toml")
			isTable := f.Type.Kind() == reflect.Struct
			switch {
			case pass == 0 && !isTable:
				leaf(name, v.Field(i))
			case pass == 1 && isTable:
				if table != nil {
					table(name)
				}
				walk(v.Field(i), name+".", leaf, table)
			}
		}
	}
}

func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "table"
	default:
		return "integer"
	}
}

// format writes a value as TOML.
func format(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return Quote(v.String())
	case reflect.Float64:
		s := strconv.FormatFloat(v.Float(), 'g', -1, 64)
		if !strings.ContainsAny(s, ".e") {
			s += ".0"
		}
		return s
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = format(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		return formatArgs(v.Interface())
	default:
		return fmt.Sprint(v.Interface())
	}
}

// Quote writes a string as TOML: the escapes of JSON are valid in TOML too.
func Quote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always have a JSON form
	}
	return string(text)
}

// formatArgs writes template arguments: an empty table, or a string with a JSON
// object, because JSON has every kind of value.
func formatArgs(v any) string {
	text, err := json.Marshal(v)
	if err != nil || string(text) == "null" || string(text) == "{}" {
		return "{}"
	}
	return Quote(string(text))
}

// Values returns the values of all keys as TOML, by key.
func Values(c Config) map[string]string {
	out := map[string]string{}
	walk(reflect.ValueOf(c), "", func(name string, v reflect.Value) { out[name] = format(v) }, nil)
	return out
}

const header = `# empo2: every key with its value here. An unknown key, or one that has no
# effect under the other settings, is an error.

`

// Write writes c as TOML, each key under its comment.
func Write(w io.Writer, c Config) error { return write(w, c, header, "") }

func write(w io.Writer, c Config, header, mark string) error {
	var b strings.Builder
	b.WriteString(header)
	walk(reflect.ValueOf(c), "", func(name string, v reflect.Value) {
		for _, line := range keys()[name].doc {
			fmt.Fprintf(&b, "# %s\n", line)
		}
		m := mark
		if name == "profile" {
			m = ""
		}
		fmt.Fprintf(&b, "%s%s = %s\n", m, name[strings.LastIndex(name, ".")+1:], format(v))
	}, func(name string) { fmt.Fprintf(&b, "\n[%s]\n", name) })
	_, err := io.WriteString(w, b.String())
	return err
}

// Differences lists the keys in which two configurations differ, as
// "key: a → b".
func Differences(a, b Config) []string {
	before := Values(a)
	var out []string
	walk(reflect.ValueOf(b), "", func(name string, v reflect.Value) {
		if s := format(v); s != before[name] {
			out = append(out, fmt.Sprintf("%s: %s → %s", name, before[name], s))
		}
	}, nil)
	return out
}

// nearest returns the valid key with the smallest edit distance. A key in the
// wrong table counts as near. far means that the names have little in common.
func nearest(key string) (valid string, far bool) {
	last := key[strings.LastIndex(key, ".")+1:]
	distance := func(valid string) int {
		other := valid[strings.LastIndex(valid, ".")+1:]
		return min(2*editDistance(key, valid), 2*editDistance(last, other)+1)
	}
	valid = slices.MinFunc(slices.Sorted(maps.Keys(keys())), func(a, b string) int {
		return cmp.Compare(distance(a), distance(b))
	})
	return valid, distance(valid) > len(last)+1
}

// editDistance returns the Levenshtein distance.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost = 1 + min(diag, row[j], row[j-1])
			}
			diag, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}
