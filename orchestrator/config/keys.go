package config

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// keyInfo describes one leaf of Config.
type keyInfo struct {
	kind    string // "string", "integer", "number", "true or false", "list of …"
	example string // its default as TOML
	doc     string
}

// keys lists every leaf by its dotted name.
var keys = sync.OnceValue(func() map[string]keyInfo {
	out := map[string]keyInfo{}
	walk(reflect.ValueOf(Default()), "", func(name, doc string, v reflect.Value) {
		out[name] = keyInfo{kindOf(v.Type()), format(v), doc}
	}, nil)
	return out
})

// walk calls leaf for each leaf and table for each table, in source order,
// leaves before sub-tables.
func walk(v reflect.Value, prefix string, leaf func(name, doc string, v reflect.Value), table func(name string)) {
	t := v.Type()
	for pass := range 2 {
		for i := range t.NumField() {
			f := t.Field(i)
			name := prefix + f.Tag.Get("toml")
			isTable := f.Type.Kind() == reflect.Struct
			switch {
			case pass == 0 && !isTable:
				leaf(name, f.Tag.Get("doc"), v.Field(i))
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
	default:
		return "integer"
	}
}

func format(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return strconv.Quote(v.String())
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
	default:
		return fmt.Sprint(v.Interface())
	}
}

// Write writes c as TOML, each key under its comment.
func Write(w io.Writer, c Config) error {
	var b strings.Builder
	b.WriteString("# empo2: every key with its default. An unknown key, or one that has no\n# effect under the other settings, is an error.\n")
	walk(reflect.ValueOf(c), "", func(name, doc string, v reflect.Value) {
		if doc != "" {
			fmt.Fprintf(&b, "# %s\n", doc)
		}
		fmt.Fprintf(&b, "%s = %s\n", name[strings.LastIndex(name, ".")+1:], format(v))
	}, func(name string) { fmt.Fprintf(&b, "\n[%s]\n", name) })
	_, err := io.WriteString(w, b.String())
	return err
}

// Differences lists the keys in which two configurations differ, as
// "key: a → b".
func Differences(a, b Config) []string {
	values := map[string]string{}
	walk(reflect.ValueOf(a), "", func(name, _ string, v reflect.Value) { values[name] = format(v) }, nil)
	var out []string
	walk(reflect.ValueOf(b), "", func(name, _ string, v reflect.Value) {
		if s := format(v); s != values[name] {
			out = append(out, fmt.Sprintf("%s: %s → %s", name, values[name], s))
		}
	}, nil)
	return out
}
