package webshop

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"
)

// A recording is a file. Its first line has the configuration of the engine, if the
// configuration matters.
type recording struct {
	path, folder string

	Human bool
	Seed  uint64
	Mode  string
}

func eachRecording(t *testing.T, root, pattern string, f func(t *testing.T, r recording)) {
	paths, err := filepath.Glob(filepath.Join(root, "*", pattern+".jsonl*"))
	if root == "" || err != nil || len(paths) == 0 {
		t.Skipf("DID NOT RUN: no recordings of WebShop (%s) in EMPO2_RECORDINGS or ../shared/fixtures/webshop", pattern)
	}
	for _, path := range paths {
		folder := filepath.Dir(path)
		t.Run(filepath.Base(folder)+"/"+filepath.Base(path), func(t *testing.T) {
			f(t, recording{path: path, folder: folder}.withHeader(t))
		})
	}
}

// recordingsFolder is the folder EMPO2_RECORDINGS, or its sub-folder webshop, or
// ../shared/fixtures/webshop, or empty.
func recordingsFolder() string {
	if named := os.Getenv("EMPO2_RECORDINGS"); named != "" {
		if sub := filepath.Join(named, "webshop"); exists(sub) {
			return sub
		}
		return named
	}
	for dir, _ := os.Getwd(); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, "go.mod")) {
			if beside := filepath.Join(dir, "..", "shared", "fixtures", "webshop"); exists(beside) {
				return beside
			}
			return ""
		}
	}
	return ""
}

func (r recording) withHeader(t *testing.T) recording {
	lines := r.lines(t)
	if len(lines) > 0 && !strings.Contains(lines[0], `"q"`) {
		decode(t, []byte(lines[0]), &r)
	}
	return r
}

// opened are the shops of the recordings. The tests share them, so a shop is read once
// for all modes.
var opened = struct {
	sync.Mutex
	families map[recording]*Family
}{families: make(map[recording]*Family)}

func (r recording) open(t *testing.T, mode Mode) *Family {
	opened.Lock()
	defer opened.Unlock()
	key := recording{folder: r.folder, Human: r.Human, Seed: r.Seed}
	f := opened.families[key]
	for other, family := range opened.families {
		if r.Mode == "" && r.Seed == 0 && other.folder == r.folder {
			f = family // the search does not depend on the goals
		}
	}
	if f == nil {
		f = openFamily(t, r.config(t))
		opened.families[key] = f
	}
	return &Family{config: f.config, info: f.info, goals: f.goals,
		shop: &shop{catalogue: f.shop.catalogue, index: f.shop.index, mode: mode, nouns: f.shop.nouns}}
}

func (r recording) config(t *testing.T) Config {
	c := Config{
		DataDir: r.folder, Items: packed(r.folder, "items.json"),
		Attributes:   packed(r.folder, "items_ins_v2.json"),
		Instructions: packed(r.folder, "items_human_ins.json"), Nouns: "nouns.json", Seed: r.Seed, OwnData: true}
	if !exists(filepath.Join(r.folder, c.Nouns)) {
		c.Nouns = writeStandInNouns(t, r.folder)
	}
	if r.Human {
		c.Goals = Human
	}
	return c
}

func openFamily(t testing.TB, c Config) *Family {
	t.Helper()
	f, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func packed(folder, name string) string {
	if exists(filepath.Join(folder, name)) {
		return name
	}
	return name + ".gz"
}

// each calls f for each line after the header.
func (r recording) each(t *testing.T, f func(line []byte)) {
	lines := r.lines(t)
	if strings.Contains(lines[0], `"human"`) {
		lines = lines[1:]
	}
	for _, line := range lines {
		f([]byte(line))
	}
}

func (r recording) lines(t testing.TB) []string {
	t.Helper()
	var lines []string
	scanner := bufio.NewScanner(bytes.NewReader(readPacked(t, r.path)))
	scanner.Buffer(nil, 1<<26)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	return lines
}

func readPacked(t testing.TB, path string) []byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var r io.Reader = file
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(file); err != nil {
			t.Fatal(err)
		}
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var standInToken = regexp.MustCompile(`[\pL\pN_]+|[^\pL\pN_\s]`)

// writeStandInNouns writes the nouns of the recordings. The recorded engine had no
// tagger. Its nouns are the words of letters whose length is not a multiple of three.
func writeStandInNouns(t testing.TB, folder string) string {
	t.Helper()
	var items []struct{ ASIN, Name string }
	decode(t, readPacked(t, filepath.Join(folder, packed(folder, "items.json"))), &items)
	list := make(map[string][]string)
	for _, it := range items {
		nouns := []string{}
		for _, w := range standInToken.FindAllString(it.Name, -1) {
			letters := !strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsLetter(r) })
			if letters && utf8.RuneCountInString(w)%3 != 0 {
				nouns = append(nouns, pyLower(w))
			}
		}
		if _, ok := list[it.ASIN]; !ok {
			list[it.ASIN] = nouns
		}
	}
	path := filepath.Join(t.TempDir(), "nouns.json")
	data, err := json.Marshal(list)
	if err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func decode(t testing.TB, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v in %.200s", err, data)
	}
}
