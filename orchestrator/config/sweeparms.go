package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// A sweepValue is a key of config.toml with its value.
type sweepValue struct {
	key   string
	value any
}

// values returns the keys of config.toml in a table, in the order of the file. A key may be written in quotes with its
// dots, or as a table.
func (r sweepReader) values(path []string, table map[string]any) ([]sweepValue, error) {
	var out []sweepValue
	name := strings.Join(path, ".")
	for _, k := range r.keys {
		if len(k) <= len(path) || !slices.Equal(k[:len(path)], path) {
			continue
		}
		key := strings.Join(k[len(path):], ".")
		if _, ok := keys()[key]; !ok {
			if r.isTable(key) || r.withinKey(key) {
				continue
			}
			return nil, unknownKeys([]string{key}, func(key string) string { return r.place(name, key) })
		}
		if why, owned := sweepOwned[key]; owned {
			return nil, r.fault(name, key, "the sweep sets it itself", "leave it out; "+why)
		}
		if key == "env.vault.houses" && r.sweep.Houses != nil {
			return nil, r.fault(name, key, "the sweep sets it itself", "leave it out; use houses")
		}
		out = append(out, sweepValue{key, within(table, k[len(path):])})
	}
	return out, nil
}

// isTable reports whether a name is that of a table of config.toml.
func (r sweepReader) isTable(name string) bool {
	for key := range keys() {
		if strings.HasPrefix(key, name+".") {
			return true
		}
	}
	return false
}

// withinKey reports whether a name is within the value of a key, which is a table.
func (r sweepReader) withinKey(name string) bool {
	for i, c := range name {
		if c == '.' {
			if info, ok := keys()[name[:i]]; ok && info.kind == "table" {
				return true
			}
		}
	}
	return false
}

// within returns the value at a path.
func within(table map[string]any, path toml.Key) any {
	for _, name := range path[:len(path)-1] {
		table, _ = table[name].(map[string]any)
	}
	return table[path[len(path)-1]]
}

// sets are the values of a table as "key=value".
func (r sweepReader) sets(path []string, table map[string]any) ([]string, error) {
	all, err := r.values(path, table)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, v := range all {
		set, err := r.set(path, v)
		if err != nil {
			return nil, err
		}
		out = append(out, set)
	}
	return out, nil
}

// set is a value as "key=value". It checks the type.
func (r sweepReader) set(path []string, v sweepValue) (string, error) {
	set := v.key + "=" + tomlValue(v.value)
	place := r.place(strings.Join(path, "."), v.key)
	r.sweep.origins[set] = place
	probe := Default()
	return set, r.sweep.Explain(applySet(set, &probe, map[string]string{}))
}

// readArms reads what [set], [arms.NAME] and [grid] hold.
func (r sweepReader) readArms(f sweepFile) (err error) {
	s := r.sweep
	if s.Sets, err = r.sets([]string{"set"}, f.Set); err != nil {
		return err
	}
	arms, err := r.namedArms(f)
	if err != nil {
		return err
	}
	cells, err := r.cells(f)
	if err != nil {
		return err
	}
	if runs := max(1, len(arms)) * max(1, len(cells)) * (len(s.Seeds) + len(s.Houses)); runs > maxSweepRuns {
		return &Error{s.Place, fmt.Sprintf("%d runs", runs), fmt.Sprintf("at most %d; use a smaller grid", maxSweepRuns)}
	}
	s.Arms = product(arms, cells)
	if len(s.Arms) == 0 {
		s.Arms = []SweepArm{{Name: "base", Title: "base"}}
	}
	return nil
}

// namedArms are those of [arms.NAME], in the order of the file.
func (r sweepReader) namedArms(f sweepFile) ([]SweepArm, error) {
	var out []SweepArm
	for _, k := range r.keys {
		if len(k) != 2 || k[0] != "arms" {
			continue
		}
		name := k[1]
		if name != folderName(name) || len(name) > maxArmName {
			return nil, &Error{r.sweep.Place + lineOf(r.text, k), fmt.Sprintf("%q is not a name", name),
				fmt.Sprintf("letters, digits, '-', '_' and '.', at most %d, a letter or a digit in front", maxArmName)}
		}
		if slices.ContainsFunc(out, func(a SweepArm) bool { return strings.EqualFold(a.Name, name) }) {
			return nil, &Error{r.sweep.Place + lineOf(r.text, k), "two arms are called " + name, "different names"}
		}
		table, ok := f.Arms[name].(map[string]any)
		if !ok {
			return nil, &Error{r.sweep.Place + lineOf(r.text, k), name + " is not a table",
				"[arms." + name + "] with keys below it"}
		}
		sets, err := r.sets([]string{"arms", name}, table)
		if err != nil {
			return nil, err
		}
		out = append(out, SweepArm{Name: name, Title: name, Sets: sets})
	}
	return out, nil
}

// cells are all combinations of the values of [grid]. The last key varies fastest.
func (r sweepReader) cells(f sweepFile) ([]SweepArm, error) {
	all, err := r.values([]string{"grid"}, f.Grid)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	out := []SweepArm{{}}
	for _, v := range all {
		axis, err := r.axis(v, all)
		if err != nil {
			return nil, err
		}
		if len(out)*len(axis) > maxSweepRuns {
			return nil, &Error{r.sweep.Place, "more than 10000 combinations", "use a smaller grid"}
		}
		out = product(out, axis)
	}
	for i := range out {
		if same := slices.ContainsFunc(out[:i], func(a SweepArm) bool { return a.Name == out[i].Name }); same ||
			len(out[i].Name) > 2*maxArmName {
			for n := range out { // their values make no names
				out[n].Name = fmt.Sprintf("cell-%03d", n+1)
			}
			break
		}
	}
	return out, nil
}

// axis are the values of one key of [grid]. all are its keys.
func (r sweepReader) axis(v sweepValue, all []sweepValue) ([]SweepArm, error) {
	list, ok := v.value.([]any)
	if !ok || len(list) == 0 {
		return nil, r.fault("grid", v.key, "is not a list of values", "for example "+v.key+" = [0.1, 0.2]; "+
			"a key with one value belongs to [set]")
	}
	var out []SweepArm
	for _, value := range list {
		set, err := r.set([]string{"grid"}, sweepValue{v.key, value})
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(a SweepArm) bool { return a.Sets[0] == set }) {
			return nil, r.fault("grid", v.key, "lists "+tomlValue(value)+" twice", "different values")
		}
		key, text := shortKey(v.key, all), strings.Trim(tomlValue(value), `"`)
		out = append(out, SweepArm{Name: folderName(key + "-" + text), Title: key + "=" + text, Sets: []string{set}})
	}
	return out, nil
}

// product is each setting of a with each of b. An empty list changes nothing.
func product(a, b []SweepArm) []SweepArm {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	var out []SweepArm
	for _, first := range a {
		for _, second := range b {
			out = append(out, SweepArm{Name: strings.Trim(first.Name+"_"+second.Name, "_"),
				Title: strings.TrimSpace(first.Title + " " + second.Title), Sets: slices.Concat(first.Sets, second.Sets)})
		}
	}
	return out
}

// maxArmName is the largest name of a setting in bytes. The seed is appended to it.
const maxArmName = 60

// folderName is a text as a part of a folder's name.
func folderName(text string) string {
	safe := strings.Map(func(c rune) rune {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if letter || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c) {
			return c
		}
		return '-'
	}, text)
	return strings.TrimLeft(safe, "-_.")
}

// shortKey is the last part of a key, or the whole key if another one ends alike.
func shortKey(key string, all []sweepValue) string {
	last := key[strings.LastIndex(key, ".")+1:]
	for _, v := range all {
		if v.key != key && strings.HasSuffix(v.key, "."+last) {
			return key
		}
	}
	return last
}

// tomlValue writes a decoded value as TOML.
func tomlValue(v any) string {
	switch v := v.(type) {
	case string:
		return Quote(v)
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = tomlValue(item)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case map[string]any:
		var parts []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, Quote(key)+" = "+tomlValue(v[key]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case float64:
		return format(reflect.ValueOf(v))
	default:
		return fmt.Sprint(v)
	}
}
