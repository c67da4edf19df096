package page

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/empo2/empo2/orchestrator/report"
)

// comparison is one of several arms with two seeds and of one arm with a single run. Names
// are hostile.
func comparison() report.Comparison {
	arms := []string{"grpo", "empo2", "<img src=x onerror=hacked=1>",
		"averylongnamewithoutanyspacesthatmustnotwidenthepage"}
	c := report.Comparison{
		Title: "vault: " + arms[2], Facts: []string{"Model: m.", "Seeds: 1, 2."}, Arms: arms,
		Settings: []report.Setting{{Key: "algorithm.name", Values: []string{`"grpo"`, `"empo2"`, `"empo2"`, `"adapt"`}}},
		Notes:    []string{"arm grpo: memory.k has no effect"},
	}
	for i, arm := range arms {
		for seed := range 2 - i/3 {
			curve := report.Curve{Arm: arm, TimeBudget: i == 0, Label: fmt.Sprintf("seed %d", seed+1), Steps: 8, Tips: 9,
				Test: &report.Point{Success: 12.5, Evaluated: 16}}
			for n := range 9 {
				curve.Points = append(curve.Points, report.Point{Episodes: 400 * n, Seconds: float64(60 * n), Tokens: 70_000 * n,
					Success: float64(n*i*3 + seed), Evaluated: 64, Score: float64(n)})
			}
			c.Curves = append(c.Curves, curve)
		}
	}
	return c
}

// The page of empo2 compare is accessible in light and dark, with everything unfolded, and fits
// a phone. It runs no script and asks for nothing.
func TestComparisonIsAccessible(t *testing.T) {
	axe, err := os.ReadFile(filepath.Join(chromium(t), "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/compare.html" {
			if r.URL.Path != "/favicon.ico" {
				t.Errorf("the page asks for %s", r.URL)
			}
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if err := comparison().HTML(w); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	b := openBrowser(t)
	for _, look := range []struct {
		scheme string
		width  int
	}{{"light", 1280}, {"dark", 390}, {"light", 320}} {
		b.scheme(look.scheme)
		b.size(look.width, 900)
		b.open(server.URL + "/compare.html")
		b.is(`document.scripts.length === 0 && !window.hacked && !document.querySelector("img")`)
		b.run(`document.querySelectorAll("details").forEach(d => { d.open = true })`)
		if wide := value[[]string](b, overflowing); len(wide) > 0 || value[bool](b, sideways) {
			t.Errorf("at %d pixels it is wider than the screen: %q", look.width, wide)
		}
		b.is(`[...document.querySelectorAll("svg.wide")].every(s =>
			(s.getBoundingClientRect().width > 0) === (innerWidth > 720))`)
		b.is(`[...document.querySelectorAll("svg text")].every(s => !s.getBoundingClientRect().width ||
			s.getBoundingClientRect().height > 10)`)
		b.run(string(axe))
		for _, violation := range value[[]string](b, axeRun) {
			t.Errorf("%s, %d pixels: %s", look.scheme, look.width, violation)
		}
	}
	b.size(390, 900)
	b.open(server.URL + "/compare.html")
	b.press("Tab") // the table of arms, which scrolls
	b.is(`document.activeElement.matches(".scroll")`)
	b.press("Tab") // the picture of a figure as a file
	b.is(`document.activeElement.matches("a[download='episodes.svg']")`)
	b.press("Tab", "Enter") // the numbers of a figure
	b.is(`document.activeElement.matches("summary") && document.activeElement.parentElement.open`)
}

// sideways: the page scrolls sideways, whatever is too wide.
const sideways = `document.documentElement.scrollWidth > innerWidth`
