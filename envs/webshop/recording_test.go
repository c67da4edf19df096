package webshop

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
)

// Recordings of the original engine are not in the repository, as they have product
// data. Each folder has a catalogue and the results of the engine.

const maxReported = 5 // number of reported differences per file

func TestRecordingGoals(t *testing.T) { eachRecording(t, recordingsFolder(), "goals_*", checkGoals) }
func TestRecordingEpisodes(t *testing.T) {
	eachRecording(t, recordingsFolder(), "episodes_*", checkEpisodes)
}
func TestRecordingRewards(t *testing.T) {
	eachRecording(t, recordingsFolder(), "rewards_*", checkRewards)
}
func TestRecordingSearch(t *testing.T) { eachRecording(t, recordingsFolder(), "search_*", checkSearch) }

// The folder testdata/shop has a synthetic catalogue with episodes of the original
// program and search results of Lucene.

func TestShopGoals(t *testing.T)    { eachRecording(t, "testdata", "goals_*", checkGoals) }
func TestShopEpisodes(t *testing.T) { eachRecording(t, "testdata", "episodes_*", checkEpisodes) }
func TestShopRewards(t *testing.T)  { eachRecording(t, "testdata", "rewards_*", checkRewards) }
func TestShopSearch(t *testing.T)   { eachRecording(t, "testdata", "search_*", checkSearch) }

func checkGoals(t *testing.T, r recording) {
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
}

func checkEpisodes(t *testing.T, r recording) {
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
		got := s.page.names()
		if fmt.Sprint(got) != fmt.Sprint(want.Av.Clickables) || s.page.searchBar != want.Av.HasSearchBar {
			report(t, different, "%s: clickables %q, want %q", where, got, want.Av.Clickables)
		}
		if want.Vi != nil && (s.purchase.Type != want.Vi["r_type"] || s.purchase.TitleScore != want.Vi["title_score"] ||
			s.purchase.QueryMatch != want.Vi["query_match"] || s.purchase.CategoryMatch != want.Vi["category_match"] ||
			s.purchase.PriceMet != want.Vi["r_price"]) {
			report(t, different, "%s: purchase %+v, want %v", where, *s.purchase, want.Vi)
		}
	}
}

func checkRewards(t *testing.T, r recording) {
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
}

func checkSearch(t *testing.T, r recording) {
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
