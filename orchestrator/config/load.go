package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// Error is a fault in the configuration. It names the place and the remedy.
type Error struct {
	Place string // "config.toml:12", "--set memory.k=…", or the key
	Msg   string
	Hint  string
}

func (e *Error) Error() string {
	s := e.Place + ": " + e.Msg
	if e.Hint != "" {
		s += "\n  hint: " + e.Hint
	}
	return s
}

// Load reads path over the defaults, applies sets ("key=value", TOML values)
// and validates. An empty path means the defaults alone.
func Load(path string, sets []string) (Config, error) {
	if path == "" {
		return LoadFiles(nil, sets)
	}
	return LoadFiles([]string{path}, sets)
}

// LoadFiles is [Load] of several files, each over those before it.
func LoadFiles(paths, sets []string) (Config, error) {
	c := Default()
	given := map[string]string{} // key → place
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return c, &Error{path, "no such file", "empo2 config > " + path + " writes the defaults there"}
		}
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		if err := decode(string(text), path, &c, given); err != nil {
			return c, err
		}
	}
	for _, s := range sets {
		if err := applySet(s, &c, given); err != nil {
			return c, err
		}
	}
	return c, Check(c, given)
}

// With returns c with sets applied and checked. Keys of c that lose their
// effect by it are not an error: c is compared with a variant of itself.
func With(c Config, sets []string) (Config, error) {
	given := map[string]string{}
	for _, s := range sets {
		if err := applySet(s, &c, given); err != nil {
			return c, err
		}
	}
	return c, Check(c, given)
}

// Parse reads a whole configuration that empo2 itself wrote; place names it in
// errors.
func Parse(text, place string) (Config, error) {
	c := Default()
	return c, decode(text, place, &c, map[string]string{})
}

// applySet applies one "key=value" to c and records the key in given.
func applySet(s string, c *Config, given map[string]string) error {
	place := "--set " + s
	key, value, ok := strings.Cut(s, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if !ok || key == "" {
		return &Error{place, "not of the form key=value", "for example --set algorithm.name=grpo"}
	}
	info, ok := keys()[key]
	if !ok {
		return unknownKey(place, key)
	}
	var probe struct{ V any }
	_, err := toml.Decode("v = "+value, &probe)
	_, isText := probe.V.(string)
	if err != nil || info.kind == "string" && !isText {
		value = fmt.Sprintf("%q", value) // a bare word is a string, and so is all that a key of that type is set to
	}
	return decode(key+" = "+value, place, c, given)
}

// decode reads TOML text into c, refusing unknown keys.
func decode(text, place string, c *Config, given map[string]string) error {
	meta, err := toml.Decode(text, c)
	if err != nil {
		return decodeError(err, place)
	}
	for _, k := range meta.Undecoded() {
		return unknownKey(place+lineOf(text, k), k.String())
	}
	for _, k := range meta.Keys() {
		given[k.String()] = place
	}
	return nil
}

// typeError matches the decoder's message about a value of the wrong type.
var typeError = regexp.MustCompile(`^toml: line (\d+) \(last key "([^"]+)"\): (.*)$`)

func decodeError(err error, place string) error {
	line, last, msg := "", "", err.Error()
	var pe toml.ParseError
	if errors.As(err, &pe) {
		line, last, msg = strconv.Itoa(pe.Position.Line), pe.LastKey, pe.Message
	} else if m := typeError.FindStringSubmatch(msg); m != nil {
		line, last, msg = m[1], m[2], m[3]
	}
	if line != "" {
		place += ":" + line
	}
	hint := "TOML wants key = value, with strings in quotes and tables as [name]"
	if key, ok := keys()[last]; ok {
		hint = fmt.Sprintf("%s is of type %s, for example %s", last, key.kind, key.example)
	}
	return &Error{place, msg, hint}
}

func unknownKey(place, key string) error {
	return &Error{place, fmt.Sprintf("unknown key %q", key), fmt.Sprintf("the nearest valid key is %q", nearest(key))}
}

// lineOf finds the line on which a key stands, for the message only.
func lineOf(text string, k toml.Key) string {
	if len(k) == 0 {
		return ""
	}
	table, last := strings.Join(k[:len(k)-1], "."), k[len(k)-1]
	current := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			current = strings.Trim(line, "[] ")
			if current == k.String() {
				return fmt.Sprintf(":%d", i+1)
			}
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		if ok && current == table && strings.Trim(strings.TrimSpace(name), `"'`) == last {
			return fmt.Sprintf(":%d", i+1)
		}
	}
	return ""
}

// nearest returns the valid key with the smallest edit distance; a key that
// is right but for its table counts as near.
func nearest(key string) string {
	valid := make([]string, 0, len(keys()))
	for k := range keys() {
		valid = append(valid, k)
	}
	sort.Strings(valid)
	last := key[strings.LastIndex(key, ".")+1:]
	best, bestD := "", 1<<30
	for _, v := range valid {
		d := 2 * editDistance(key, v)
		if e := 2*editDistance(last, v[strings.LastIndex(v, ".")+1:]) + 1; e < d {
			d = e
		}
		if d < bestD {
			best, bestD = v, d
		}
	}
	return best
}

// editDistance is Levenshtein's.
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
