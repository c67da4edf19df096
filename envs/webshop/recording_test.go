package webshop

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// Recordings of the original engine lie outside the repository, as they hold
// product data. Each folder has a catalogue and what the engine did with it.

const maxReported = 5 // differences shown of one file

func TestRecordingGoals(t *testing.T) {
	eachRecording(t, "goals_*", func(t *testing.T, r recording) {
		f := r.open(t, Text)
		var n, different int
		r.each(t, func(line []byte) {
			var want struct {
				ASIN        string
				Instruction string
				PriceUpper  float64 `json:"price_upper"`
				Weight      float64
				Prices      map[string]float64 // the last line's only field
			}
			decode(t, line, &want)
			if want.Prices != nil {
				checkPrices(t, f, want.Prices, &different)
				return
			}
			w, err := f.goals.want(n)
			if err != nil {
				t.Fatal(err)
			}
			if w.product.asin != want.ASIN || w.instruction != want.Instruction || w.limit != want.PriceUpper ||
				f.goals.weight(n) != want.Weight {
				report(t, &different, "goal %d = %s %q %v %v, want %+v", n, w.product.asin, w.instruction, w.limit,
					f.goals.weight(n), want)
			}
			n++
		})
		if n != len(f.goals.goals) {
			t.Errorf("there are %d goals, recorded are %d", len(f.goals.goals), n)
		}
		t.Logf("%d goals, %d different", n, different)
	})
}

func TestRecordingEpisodes(t *testing.T) {
	eachRecording(t, "episodes_*", func(t *testing.T, r recording) {
		f := r.open(t, Mode(r.Mode))
		var episodes, steps, different int
		r.each(t, func(line []byte) {
			var e recordedEpisode
			decode(t, line, &e)
			episodes++
			steps += len(e.Rec)
			e.replay(t, f, &different)
		})
		t.Logf("%d episodes, %d records, %d different", episodes, steps, different)
	})
}

func checkPrices(t *testing.T, f *Family, want map[string]float64, different *int) {
	t.Helper()
	if got := len(f.shop.catalogue.heads); got != len(want) {
		report(t, different, "%d products, want %d", got, len(want))
	}
	for _, h := range f.shop.catalogue.heads {
		if h.price != want[h.asin] {
			report(t, different, "price of %s = %v, want %v", h.asin, h.price, want[h.asin])
		}
	}
}

type recordedEpisode struct {
	Idx int
	Rec []struct {
		A  *string
		O  string
		R  float64
		D  bool
		Av struct {
			HasSearchBar bool `json:"has_search_bar"`
			Clickables   []string
		}
		Vi map[string]any
	}
}

func (e *recordedEpisode) replay(t *testing.T, f *Family, different *int) {
	t.Helper()
	s, err := f.session(e.Idx, strconv.Itoa(e.Idx), 0)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range e.Rec {
		var reward float64
		var done bool
		if want.A == nil {
			s.open()
		} else if reward, done, err = s.act(*want.A); err != nil {
			t.Fatal(err)
		}
		where := fmt.Sprintf("goal %d, record %d", e.Idx, n)
		if got := s.observe(); got != want.O {
			report(t, different, "%s: observation\n%q, want\n%q", where, got, want.O)
		}
		if reward != want.R || done != want.D {
			report(t, different, "%s: reward %v, done %v, want %v, %v", where, reward, done, want.R, want.D)
		}
		if got := s.page.names(); fmt.Sprint(got) != fmt.Sprint(want.Av.Clickables) || s.page.searchBar != want.Av.HasSearchBar {
			report(t, different, "%s: clickables %q, want %q", where, got, want.Av.Clickables)
		}
		if want.Vi != nil && (s.purchase.Type != want.Vi["r_type"] || s.purchase.TitleScore != want.Vi["title_score"] ||
			s.purchase.QueryMatch != want.Vi["query_match"] || s.purchase.CategoryMatch != want.Vi["category_match"] ||
			s.purchase.PriceMet != want.Vi["r_price"]) {
			report(t, different, "%s: purchase %+v, want %v", where, *s.purchase, want.Vi)
		}
	}
}

func TestRecordingRewards(t *testing.T) {
	eachRecording(t, "rewards_*", func(t *testing.T, r recording) {
		f := r.open(t, Text)
		var n, different int
		r.each(t, func(line []byte) {
			var want struct {
				A string
				G int
				O []string
				R float64
			}
			decode(t, line, &want)
			w, err := f.goals.want(want.G)
			if err != nil {
				t.Fatal(err)
			}
			i := f.shop.catalogue.byASIN[want.A]
			p, err := f.shop.catalogue.product(i)
			if err != nil {
				t.Fatal(err)
			}
			n++
			if got := f.shop.pay(i, p, want.O, w); got.Reward != want.R {
				report(t, &different, "%s %q for goal %d: %+v, want %v", want.A, want.O, want.G, got, want.R)
			}
		})
		t.Logf("%d rewards, %d different", n, different)
	})
}

func TestRecordingSearch(t *testing.T) {
	eachRecording(t, "search_*", func(t *testing.T, r recording) {
		f := r.open(t, Text)
		var n, different int
		r.each(t, func(line []byte) {
			var want struct {
				Q    string
				Hits []string
			}
			decode(t, line, &want)
			var got []string
			for _, h := range f.shop.index.search(want.Q, resultsMax) {
				got = append(got, fmt.Sprintf("%s:%08x", f.shop.index.ids[h.doc], math.Float32bits(h.score)))
			}
			n++
			if strings.Join(got, " ") != strings.Join(want.Hits, " ") {
				report(t, &different, "search %q:\n%q, want\n%q", want.Q, got, want.Hits)
			}
		})
		t.Logf("%d searches, %d different", n, different)
	})
}

// A recording is one file; its first line says how the engine was set up,
// except where it does not matter.
type recording struct {
	path, folder, nouns string

	Human bool
	Seed  uint64
	Mode  string
}

func eachRecording(t *testing.T, pattern string, f func(t *testing.T, r recording)) {
	root := recordingsFolder()
	paths, err := filepath.Glob(filepath.Join(root, "*", pattern+".jsonl*"))
	if root == "" || err != nil || len(paths) == 0 {
		t.Skipf("DID NOT RUN: no recordings of WebShop (%s) in EMPO2_RECORDINGS or ../shared/fixtures/webshop", pattern)
	}
	nouns := make(map[string]string)
	for _, path := range paths {
		folder := filepath.Dir(path)
		if nouns[folder] == "" {
			nouns[folder] = writeStandInNouns(t, folder)
		}
		t.Run(filepath.Base(folder)+"/"+filepath.Base(path), func(t *testing.T) {
			f(t, recording{path: path, folder: folder, nouns: nouns[folder]}.withHeader(t))
		})
	}
}

// recordingsFolder is the one that EMPO2_RECORDINGS names, or its webshop, or
// the one beside the repository; empty if there is none.
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

func (r recording) open(t *testing.T, mode Mode) *Family {
	c := Config{DataDir: r.folder, Items: packed(r.folder, "items.json"), Attributes: packed(r.folder, "items_ins_v2.json"),
		Instructions: packed(r.folder, "items_human_ins.json"), Nouns: r.nouns, Mode: mode, Seed: r.Seed}
	if r.Human {
		c.Goals = Human
	}
	return openFamily(t, c)
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

// each calls f for every line but the header.
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
	scanner := bufio.NewScanner(strings.NewReader(string(readPacked(t, r.path))))
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

// writeStandInNouns writes the list of what the recordings take for nouns: in
// place of a tagger both sides had words of letters whose length is no
// multiple of three.
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

func report(t *testing.T, different *int, format string, args ...any) {
	t.Helper()
	*different++
	if *different <= maxReported {
		t.Errorf(format, args...)
	} else {
		t.Fail()
	}
}
