package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// Error is a mistake in the configuration. It names the place and the remedy.
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

// A Source names the layers of a configuration. Each layer overrides those
// before it: the defaults, the profile, the files in order, the sets in order.
type Source struct {
	Profile string   // empty: the one that the files or sets name, if any
	Files   []string // paths
	Sets    []string // "key=value" with TOML values, as in --set
	Machine Machine  // for values that depend on the hardware
	// Note is called for a key of a file that a set has made ineffective. The key then has its default. Nil: nobody
	// reads the notes.
	Note func(string)
	// NoEffect is called for each key that the user wrote and that has no effect, instead of Note. The key keeps its
	// value. Nil: such a key is an error.
	NoEffect func(Idle)
}

// Idle is a key without effect.
type Idle struct {
	Key   string
	Place string // where the user wrote it, for example "config.toml"
	Why   string
}

// Err is the error if the key has no effect anywhere.
func (i Idle) Err() error { return noEffect(i.Place+": "+i.Key, i.Why) }

// Load reads, derives and validates a configuration.
func (s Source) Load() (Config, error) {
	texts, err := s.read()
	if err != nil {
		return Config{}, err
	}
	return s.load(texts)
}

// LoadText loads a configuration from the text of one file. Errors call the file
// place.
func LoadText(text, place string, m Machine) (Config, error) {
	return Source{Files: []string{place}, Machine: m}.load([]string{text})
}

// load builds the configuration from the texts of s.Files.
func (s Source) load(texts []string) (Config, error) {
	base, err := withProfile(s.profile(texts))
	if err != nil {
		return base, err
	}
	c, given, err := s.layered(base, texts, s.Sets)
	if err != nil {
		return c, err
	}
	if s.NoEffect == nil {
		if err := s.dropOverruled(&c, base, texts, given); err != nil {
			return c, err
		}
	}
	derive(&c, s.Machine)
	s.forgive(c, base, given)
	return c, check(c, base, given, s.Machine)
}

// forgive reports the given keys without effect to NoEffect, and removes them from given.
func (s Source) forgive(c, base Config, given map[string]string) {
	if s.NoEffect == nil {
		return
	}
	found := ineffectiveKeys(c, base, given, s.Machine)
	for _, key := range slices.Sorted(maps.Keys(found)) {
		s.NoEffect(Idle{key, given[key], found[key]})
		delete(given, key)
	}
}

// layered puts the texts of s.Files and sets over base. given has the place of each key in them.
func (s Source) layered(base Config, texts, sets []string) (c Config, given map[string]string, err error) {
	c, given = clone(base), map[string]string{}
	for i, path := range s.Files {
		if err := decode(texts[i], path, &c, given); err != nil {
			return c, nil, err
		}
	}
	for _, set := range sets {
		if err := applySet(set, &c, given); err != nil {
			return c, nil, err
		}
	}
	c.Profile = base.Profile
	return c, given, nil
}

// read returns the texts of the files.
func (s Source) read() ([]string, error) {
	texts := make([]string, len(s.Files))
	for i, path := range s.Files {
		text, err := readFile(path)
		if err != nil {
			return nil, err
		}
		texts[i] = text
	}
	return texts, nil
}

// maxFile is the largest configuration file in bytes.
const maxFile = 1 << 20

// pipeTimeout bounds how long the text of a pipe may take to arrive.
const pipeTimeout = 10 * time.Second

// readFile reads a configuration file.
func readFile(path string) (string, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", &Error{path, "no such file", "empo2 init --model DIR writes one; empo2 config > " +
			safetext.Argument(path) + " writes the defaults there"}
	}
	return ReadText(path, path)
}

// ReadText reads a text file that the user named. It refuses what could block, is
// no text or is larger than 1 MB. Only a pipe below /dev is read, which a shell
// makes for -c <(command). Errors call the file place.
func ReadText(path, place string) (string, error) { return readWithin(path, place, pipeTimeout) }

func readWithin(path, place string, limit time.Duration) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", unreadable(place, err)
	case info.IsDir():
		return "", &Error{place, "is a folder", "name the file in it, for example " +
			filepath.Join(path, "config.toml")}
	case !info.Mode().IsRegular() && !strings.HasPrefix(path, "/dev/"):
		return "", &Error{place, "is not a file", "name a text file"}
	}
	mode := os.O_RDONLY
	if info.Mode()&fs.ModeNamedPipe != 0 {
		mode |= syscall.O_NONBLOCK // else opening it waits for a writer
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return "", unreadable(place, err)
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(limit)) // files and terminals have none
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", &Error{place, fmt.Sprintf("the pipe has no end after %v", limit),
			"the program that writes to it must end"}
	case err != nil:
		return "", unreadable(place, err)
	case len(text) > maxFile:
		return "", &Error{place, "is larger than 1 MB", "name a configuration file or a template"}
	}
	return string(text), nil
}

// unreadable is the error for a file that exists.
func unreadable(path string, err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		err = failed.Err // the path is the place
	}
	return &Error{path, "cannot be read: " + err.Error(), "check its owner and permissions"}
}

// profile returns the name of the profile and the place that names it. It
// ignores mistakes in the texts, because decode reports them.
func (s Source) profile(texts []string) (name, place string) {
	if s.Profile != "" {
		return s.Profile, "--profile " + s.Profile
	}
	var root struct {
		Profile string `toml:"profile"`
	}
	for i, text := range texts {
		before := root.Profile
		if _, err := toml.Decode(text, &root); err == nil && root.Profile != before {
			place = s.Files[i] + lineOf(text, toml.Key{"profile"})
		}
	}
	for _, set := range s.Sets {
		if key, value, _ := strings.Cut(set, "="); strings.TrimSpace(key) == "profile" {
			root.Profile, place = strings.Trim(strings.TrimSpace(value), `"'`), "--set "+set
		}
	}
	return root.Profile, place
}

// With returns a variant of c: it applies the sets and checks the result. It is
// not an error if other keys of c lose their effect.
func With(c Config, sets []string) (Config, error) {
	base, err := withProfile(c.Profile, "profile")
	if err != nil {
		return c, err
	}
	c = clone(c)
	given := map[string]string{}
	for _, s := range sets {
		if err := applySet(s, &c, given); err != nil {
			return c, err
		}
	}
	derive(&c, Machine{})
	return c, check(c, base, given, Machine{})
}

// Parse reads a complete configuration that empo2 wrote. Errors call it place.
func Parse(text, place string) (Config, error) {
	c := Default()
	return c, decode(text, place, &c, map[string]string{})
}

// clone returns a copy of c that shares no list or table with it.
func clone(c Config) Config {
	var b strings.Builder
	_ = Write(&b, c) // a strings.Builder never fails
	out, err := Parse(b.String(), "copy")
	if err != nil {
		panic(err) // what Write writes is always accepted
	}
	return out
}

// applySet applies one "key=value" to c and records the key in given.
func applySet(s string, c *Config, given map[string]string) error {
	key, value, err := ParseSet(s)
	if err != nil {
		return err
	}
	return decode(key+" = "+value, "--set "+s, c, given)
}

// ParseSet splits the "key=value" of a --set into the key and a value in TOML.
func ParseSet(s string) (key, value string, err error) {
	place := "--set " + s
	key, value, ok := strings.Cut(s, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if !ok || key == "" {
		return "", "", &Error{place, "not of the form key=value", "for example --set algorithm.name=grpo"}
	}
	info, ok := keys()[key]
	if !ok {
		return "", "", unknownKeys([]string{key}, func(string) string { return place })
	}
	probe := map[string]any{}
	_, wrong := toml.Decode("v = "+value, &probe)
	if len(probe) > 1 { // a line break in value began another key
		return "", "", &Error{"--set " + key, "sets more than one key", "repeat --set for each key"}
	}
	_, isText := probe["v"].(string)
	if wrong != nil || info.kind == "string" && !isText {
		value = Quote(value) // --set needs no quotes around strings
	}
	return key, value, nil
}

// decode reads TOML text into c and records its keys in given. An unknown key is
// an error.
func decode(text, place string, c *Config, given map[string]string) error {
	meta, err := toml.Decode(text, c)
	if err != nil {
		return decodeError(err, place)
	}
	if undecoded := meta.Undecoded(); len(undecoded) > 0 {
		lines, unknown := map[string]string{}, make([]string, len(undecoded))
		for i, k := range undecoded {
			unknown[i], lines[k.String()] = k.String(), lineOf(text, k)
		}
		return unknownKeys(unknown, func(key string) string { return place + lines[key] })
	}
	for _, k := range meta.Keys() {
		given[k.String()] = place
	}
	return nil
}

// typeError matches the decoder's message about a value of the wrong type.
var typeError = regexp.MustCompile(`^toml: line (\d+) \(last key "([^"]+)"\): (.*)$`)

// wrongTable matches the decoder's message about a value in place of a table.
var wrongTable = regexp.MustCompile(`^type mismatch for \S+: `)

// plainTypes replaces the names of Go's types in the decoder's messages.
var plainTypes = strings.NewReplacer(
	"[]map[string]any", "a list of tables", "map[string]any", "a table", "[]any", "a list",
	"[]map[string]interface {}", "a list of tables", "map[string]interface {}", "a table", "[]interface {}", "a list")

// wrongType matches the decoder's message about a value of the wrong type.
var wrongType = regexp.MustCompile(`^incompatible types: TOML value has type (.+); destination has type (.+)$`)

// typeNames are the decoder's names of types in the words of TOML.
var typeNames = map[string]string{
	"int64": "a whole number", "integer": "a whole number", "float64": "a number", "float": "a number",
	"bool": "true or false", "boolean": "true or false", "string": "a string", "slice": "a list", "map": "a table",
	"time.Time": "a date",
}

// wrongTypeText says which type a value has, and which one it must have. If a list is at fault, kind is "list".
func wrongTypeText(got, want, kind string) string {
	name := func(s string) string { return cmp.Or(typeNames[s], s) }
	if kind == "list" && want != "slice" {
		return fmt.Sprintf("an item of the list is %s, not %s", name(got), name(want))
	}
	return fmt.Sprintf("the value is %s, not %s", name(got), name(want))
}

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
	hint := "TOML needs key = value, strings in quotes, and tables as [name]"
	msg = plainTypes.Replace(wrongTable.ReplaceAllString(msg, ""))
	if m := wrongType.FindStringSubmatch(msg); m != nil {
		msg = wrongTypeText(m[1], m[2], keys()[last].kind)
	}
	if strings.Contains(msg, "UTF-8") {
		return &Error{place, msg, "save the file as UTF-8"}
	}
	if key, ok := keys()[last]; ok {
		hint = fmt.Sprintf("%s is of type %s, for example %s", last, key.kind, key.example)
	}
	return &Error{place, msg, hint}
}

// lineOf returns ":" and the line number of a key for error messages, or "" if
// it does not find the key.
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
