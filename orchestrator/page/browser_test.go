package page

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/empo2/empo2/orchestrator"
)

// browser is a tab of a headless Chromium. Every test fails if a request leaves this machine,
// or if the console has an error.
type browser struct {
	*devtools

	mu       sync.Mutex
	problems []string
	mayFail  atomic.Bool // requests may fail, because the test stops the server
	loaded   chan bool
}

// chromium is the folder of scripts/setup-chromium.
func chromium(t *testing.T) string {
	dir := os.Getenv("EMPO2_CHROMIUM")
	if dir == "" {
		t.Skip("NOT TESTED in a browser: EMPO2_CHROMIUM names no folder of scripts/setup-chromium")
	}
	return dir
}

func openBrowser(t *testing.T) *browser {
	program := filepath.Join(chromium(t), "chromium")
	b := &browser{loaded: make(chan bool, 100)}
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, problem := range b.problems {
			t.Error(problem)
		}
	})
	b.devtools = startChromium(t, program, b.listen)
	for _, domain := range []string{"Network", "Log", "Runtime", "Page"} {
		b.command(domain+".enable", nil, nil)
	}
	return b
}

// localSchemes are those of addresses that need no network.
var localSchemes = []string{"data", "blob", "file", "about"}

// listen looks at what the tab reports.
func (b *browser) listen(method string, params json.RawMessage) {
	var e struct {
		Request          struct{ URL string }
		ExceptionDetails exception
		Entry            struct{ Level, Source, Text, URL string }
		Type             string
		Args             []struct{ Value any }
	}
	if err := json.Unmarshal(params, &e); err != nil {
		return // another event, with another form
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch method {
	case "Page.loadEventFired":
		b.loaded <- true
	case "Network.requestWillBeSent":
		u, err := url.Parse(e.Request.URL)
		if err != nil || u.Hostname() != "127.0.0.1" && !slices.Contains(localSchemes, u.Scheme) {
			b.problems = append(b.problems, "a request leaves this machine: "+e.Request.URL)
		}
	case "Runtime.exceptionThrown":
		b.problems = append(b.problems, "exception: "+e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	case "Log.entryAdded":
		if e.Entry.Level == "error" && (!b.mayFail.Load() || e.Entry.Source != "network") {
			b.problems = append(b.problems, "console: "+e.Entry.Text+" "+e.Entry.URL)
		}
	case "Runtime.consoleAPICalled":
		if e.Type == "error" || e.Type == "warning" {
			b.problems = append(b.problems, "console: "+string(params))
		}
	}
}

// open shows an address and waits until its view is there.
func (b *browser) open(address string) {
	b.t.Helper()
	b.t.Cleanup(func() { b.mayFail.Store(true) })         // before the server ends
	for _, to := range []string{"about:blank", address} { // else a new fragment loads nothing
		b.command("Page.navigate", object{"url": to}, nil)
		<-b.loaded
	}
	b.until(`document.querySelector("h1") && !document.querySelector("main").textContent.includes("Loading …")`)
}

// until waits until an expression is true.
func (b *browser) until(expression string) {
	b.t.Helper()
	script := `new Promise(done => { const tries = setInterval(() => {
		let ok = false; try { ok = Boolean(` + expression + `) } catch {}
		if (ok || Date.now() > end) { clearInterval(tries); done(ok) } }, 20); const end = Date.now() + 20000 })`
	if !value[bool](b, script) {
		b.t.Fatalf("%s does not become true; the page says:\n%s", expression,
			value[string](b, `document.body.innerText.slice(0, 2000)`))
	}
}

// value evaluates an expression.
func value[T any](b *browser, expression string) (out T) {
	b.t.Helper()
	if err := b.evaluate(expression, &out); err != nil {
		b.t.Fatalf("%.300s: %v", expression, err)
	}
	return out
}

// run evaluates statements.
func (b *browser) run(script string) {
	b.t.Helper()
	if err := b.evaluate(script+"; 0", nil); err != nil {
		b.t.Fatalf("%.300s: %v", script, err)
	}
}

// is reports an expression that is not true.
func (b *browser) is(expression string) {
	b.t.Helper()
	if !value[bool](b, "(async () => Boolean(await ("+expression+")))()") {
		b.t.Errorf("%s is not true", expression)
	}
}

// keyCodes are the codes of keys without a character.
var keyCodes = map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
	"ArrowDown": 40, " ": 32}

// press types keys, each by its name or its character.
func (b *browser) press(keys ...string) {
	b.t.Helper()
	for _, key := range keys {
		event := object{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": keyCodes[key]}
		switch {
		case key == "Enter":
			event["text"] = "\r"
		case keyCodes[key] == 0, key == " ":
			event["text"] = key
		}
		b.command("Input.dispatchKeyEvent", event, nil)
		event["type"] = "keyUp"
		delete(event, "text")
		b.command("Input.dispatchKeyEvent", event, nil)
	}
}

// click clicks on a button by its text.
func (b *browser) click(text string) {
	b.t.Helper()
	quoted, _ := json.Marshal(text)
	b.run(`[...document.querySelectorAll("button")].find(e => e.textContent.includes(` + string(quoted) + `)).click()`)
}

func (b *browser) scheme(name string) {
	b.t.Helper()
	features := []object{{"name": "prefers-color-scheme", "value": name}}
	b.command("Emulation.setEmulatedMedia", object{"features": features}, nil)
}

func (b *browser) size(width, height int) {
	b.t.Helper()
	b.command("Emulation.setDeviceMetricsOverride",
		object{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// views are the addresses of all views.
func views() map[string]string {
	run := "/" + encoded(runName)
	return map[string]string{
		"runs": "#/", "now": "#/now" + run, "episodes": "#/episodes" + run,
		"episode": "#/episode" + run + "?kind=training&place=47%2F0%2F1&list=training&mode=off_policy",
		"beside":  "#/episode" + run + "?kind=training&place=47%2F0%2F1&beside=training%3A47%2F0%2F0&colour=ratio",
		"memory":  "#/memory" + run,
		"compare": "#/compare?runs=" + url.QueryEscape(encoded(runName)+",runs%2Fgrpo-1,runs%2Fgrpo-2"),
		"seeds":   "#/compare?band=seeds&runs=" + url.QueryEscape("runs%2Fgrpo-1,runs%2Fgrpo-2"),
	}
}

func TestPageFollowsTheRun(t *testing.T) {
	f := newFixture()
	s := serveFixture(t, f)
	b := openBrowser(t)
	b.open(s.url("#/now/" + encoded(runName)))
	b.until(`document.querySelector(".facts dd").textContent === "48" && document.querySelectorAll(".u-wrap").length > 5`)
	f.grow()
	b.until(`document.querySelector(".facts dd").textContent === "49"`) // which the server says after the event
	b.until(`[...document.querySelectorAll(".plot")].some(p => p.ariaLabel.includes("KL 0.0544"))`)
	log := f.logged()
	asked := log[slices.Index(log, "event change"):]
	for _, what := range []string{"/now", "/series"} {
		if !slices.Contains(asked, "GET /api/runs/"+encoded(runName)+what) {
			t.Errorf("after an event the page asks for %q, not for %s", asked, what)
		}
	}
	b.is(`document.querySelector(".live-live")`)
	f.end()
	b.until(`document.body.textContent.includes("The run's process has ended; showing what is stored.")`)
	b.is(`document.querySelector(".live-ended") && !document.querySelector("progress")`)
}

// The real server answers with the names that the page reads, and the page follows the files
// of a run.
func TestPageShowsARunOfTheServer(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "group", "one")
	w := recorded(t, dir)
	recorded(t, filepath.Join(root, "two"))
	writeStatus(t, dir, `,"phase":{"name":"sampling","step":3,"of":4,"done":1,"total":8,"unit":"episodes","eta_s":3.5}`)
	b := openBrowser(t)
	page := serve(t, Options{Roots: []string{root}}).URL
	run := "/group%2Fone"
	b.open(page + "/#/episodes" + run + "?mode=off_policy")
	b.is(`document.querySelectorAll("a.place").length === 1 && document.querySelector("a.place").textContent === "2/0/0"`)
	b.run(`document.querySelector("a.place").click()`)
	b.until(`document.querySelector(".span-tip a, .span-tips a")?.textContent.includes("1/0/0")`)
	b.is(`document.querySelector("main").textContent.includes("pull <b>left</b>") && !document.querySelector("main dd b")`)
	b.open(page + "/#/memory" + run)
	b.is(`document.querySelectorAll("li.tip").length === 1 && document.querySelector("li.tip a").textContent === "1/0/0"`)
	b.open(page + "/#/now" + run)
	b.until(`document.querySelector(".live-live") && document.querySelector("progress").value === 1 / 8`)
	b.is(`document.querySelector(".tile .big").textContent === "50.0 %"`)
	b.open(page + "/#/compare?runs=" + url.QueryEscape("group%2Fone,two"))
	b.is(`document.querySelectorAll(".legend .key").length === 2 && !document.querySelector(".problem")`)
	b.open(page + "/#/now" + run)
	w.commit(orchestrator.StepMetrics{Step: 3, Version: 3, Episodes: 6})
	b.until(`document.querySelector(".facts dd").textContent === "3"`)
	writeStatus(t, dir, `,"ended":"done"`)
	b.until(`document.querySelector(".live-ended") && document.querySelector(".notice")`)
}

func TestPageOfRunsWithoutSteps(t *testing.T) {
	root := t.TempDir()
	b := openBrowser(t)
	page := serve(t, Options{Roots: []string{root}}).URL
	b.open(page)
	b.until(`document.querySelector("main").textContent.includes("There is no run here yet")`)
	record(t, filepath.Join(root, "new"))
	b.mayFail.Store(true) // an episode and a run are not found
	for view, says := range map[string]string{"now": "The curve begins with the first one", "episodes": "No episode fits",
		"memory": "The memory is empty", "episode": "Episode", "other": "There is no run"} {
		run := "new"
		if view == "other" {
			view, run = "now", "other"
		}
		page := serve(t, Options{Roots: []string{root}}).URL // finds the run at once
		b.open(page + "/#/" + view + "/" + run)
		b.until(`document.querySelector("main").textContent.includes("` + says + `")`)
	}
}

func TestPageConnectsAgain(t *testing.T) {
	f := newFixture()
	s := serveFixture(t, f)
	b := openBrowser(t)
	b.open(s.url("#/now/" + encoded(runName)))
	b.until(`document.querySelector(".live-live")`)
	b.mayFail.Store(true)
	s.http.Close()
	b.until(`document.querySelector(".live-lost") &&
		document.body.textContent.includes("The connection to empo2 is lost")`)
	b.is(`document.querySelector(".facts dd").textContent === "48"`) // what is known stays
	f.mu.Lock()
	f.steps = 50
	f.mu.Unlock()
	s.start(f)
	b.until(`document.querySelector(".live-live") && document.querySelector(".facts dd").textContent === "50"`)
	f.mu.Lock()
	f.fail = true
	f.mu.Unlock()
	f.grow()
	b.until(`document.querySelector(".problem")?.textContent.includes("empo2 check RUN")`)
	b.is(`document.querySelector(".facts dd").textContent === "50" && !window.hacked`)
}

// axeRun lists violations of axe's rules: WCAG 2.2 AA and good practice.
const axeRun = `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.flatMap(v =>
	v.nodes.slice(0, 3).map(n => v.id + ": " + n.target.join(" ") + " " + (n.any[0]?.message || n.failureSummary))))`

func TestPageIsAccessible(t *testing.T) {
	axe, err := os.ReadFile(filepath.Join(chromium(t), "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	s := serveFixture(t, newFixture())
	b := openBrowser(t)
	for name, hash := range views() {
		b.open(s.url(hash))
		b.run(string(axe))
		for _, width := range []int{390, 1280, 320} {
			b.size(width, 800)
			if wide := value[[]string](b, overflowing); len(wide) > 0 {
				t.Errorf("%s at %d pixels overflows: %q", name, width, wide)
			}
			if width == 390 {
				continue // as 320
			}
			for _, scheme := range []string{"light", "dark"} {
				b.scheme(scheme)
				for _, violation := range value[[]string](b, axeRun) {
					t.Errorf("%s, %s, %d pixels: %s", name, scheme, width, violation)
				}
			}
		}
	}
}

// overflowing names elements beyond the right edge, if the page scrolls sideways, cards that
// are narrower than what is in them, and labels whose text is set letter by letter.
const overflowing = `[...document.querySelectorAll(".card")].filter(e => e.scrollWidth > e.clientWidth + 1)
	.concat([...document.querySelectorAll(".tools label, .filters label")].filter(e => e.offsetHeight > 60))
	.map(e => e.tagName + "." + e.className).concat(document.documentElement.scrollWidth <= innerWidth ? [] :
	[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5)
		.map(e => e.tagName + "." + e.className))`

// The axis of returns ends where that of success does, which shows all of the curve, and steps
// are whole numbers.
func TestChartsHaveHonestAxes(t *testing.T) {
	f := newFixture()
	f.steps = 4
	s := serveFixture(t, f)
	b := openBrowser(t)
	b.open(s.url("#/"))
	b.run(`window.plots = []; uPlot = new Proxy(uPlot, { construct(target, args) {
		const made = new target(...args); plots.push(made); return made } })`)
	b.run(`location.hash = "#/now/` + encoded(runName) + `"`)
	b.until(`plots.length > 5 && plots.every(p => p.axes[0]._splits)`)
	b.is(`plots.filter(p => p.axes.length === 3).length > 0`)
	b.is(`plots.filter(p => p.axes.length === 3).every(p => p.scales.y.min === 0 && p.scales.right.min === 0 &&
		p.scales.y.max === 0.25 && p.scales.right.max === 0.25)`)
	b.is(`plots.every(p => p.axes[0]._splits.every(Number.isInteger))`)
}

// A phone shows what a wide screen has columns for.
func TestPhoneShowsTurnsAndCut(t *testing.T) {
	s := serveFixture(t, newFixture())
	b := openBrowser(t)
	b.size(320, 800)
	b.open(s.url(views()["episodes"]))
	b.is(`[...document.querySelectorAll("td .narrow")].some(e => e.innerText.includes("5 turns · 1 cut"))`)
	b.open(s.url(views()["compare"]))
	b.is(`document.querySelector("main").innerText.includes("different steps")`)
}

func TestHostileTextsAreInert(t *testing.T) {
	s := serveFixture(t, newFixture())
	b := openBrowser(t)
	for name, hash := range views() {
		b.open(s.url(hash))
		if name == "now" {
			b.until(`document.querySelector(".events")`)
		}
		b.is(`!window.hacked && document.scripts.length === 15 && !document.querySelector("img, iframe, object")`)
		if name == "runs" {
			continue
		}
		b.is(`document.body.textContent.includes("<script>window.hacked=1")`)
		for _, hidden := range []string{"\u202e", "\u202c", "\u200b", "\x1b", "\x00"} {
			if strings.Contains(value[string](b, shownText), hidden) {
				t.Errorf("%s shows the hidden character %q as it is", name, hidden)
			}
		}
	}
	b.open(s.url(views()["memory"]))
	b.is(`[...document.querySelectorAll(".hidden-char")].some(e => e.textContent === "U+202E")`)
	b.open(s.url(views()["episode"]))
	b.is(`document.body.textContent.length < 60000`) // not the line of 1 MB
	b.click("more of 1,048,576 characters")
	b.until(`document.body.textContent.length > 200000`)
}

// shownText is what a reader sees or hears.
const shownText = `document.getElementById("page").textContent + document.title +
	[...document.querySelectorAll("[title], [aria-label]")].map(e => e.title + e.ariaLabel).join()`

func TestPageWorksWithTheKeyboard(t *testing.T) {
	f := newFixture()
	s := serveFixture(t, f)
	b := openBrowser(t)
	b.open(s.url(views()["episodes"]))
	b.press("Tab")
	b.is(`document.activeElement.className === "skip" && document.activeElement.getBoundingClientRect().top >= 0`)
	b.press("Enter")
	b.is(`document.activeElement.id === "main"`)
	b.press("ArrowDown", "ArrowDown")
	b.is(`document.activeElement.textContent === "47/0/1" &&
		getComputedStyle(document.activeElement).outlineStyle !== "none"`)
	b.run(`const mode = document.querySelector(".filters label:nth-of-type(4) select"); mode.value = "off_policy";
		mode.dispatchEvent(new Event("change", {bubbles: true}))`)
	b.until(`location.hash.includes("mode=off_policy") && document.querySelectorAll("a.place").length === 12`)
	b.run(`document.querySelector("a.place").focus()`)
	b.press("ArrowUp", "ArrowDown", "Enter")
	b.until(`location.hash.startsWith("#/episode/") && document.querySelector(".tokens")`)
	b.is(`document.activeElement.id === "main"`)
	b.run(`document.querySelector(".tokens").focus()`)
	b.press("ArrowRight", "ArrowRight")
	b.is(`document.querySelector(".token-facts").textContent.startsWith("token 2 of 10 · id 101")`)
	b.press("Escape")
	b.until(`location.hash.startsWith("#/episodes/") && location.hash.includes("mode=off_policy")`)
	b.press("?")
	b.until(`document.querySelector(".glossary")`)
	b.press("Escape")
	b.until(`!document.querySelector(".glossary")`)
	b.press("1")
	b.until(`location.hash.startsWith("#/now/") && document.querySelector(".plot")`)
	b.run(`document.querySelector(".plot").focus()`)
	b.press("ArrowLeft")
	b.until(`document.querySelector(".legend .at").textContent === "step 48"`)
	b.until(`[...document.querySelectorAll(".small-chart .at")].every(e => e.textContent === "step 48")`) // one cursor
}

func TestPageEditsTheMemory(t *testing.T) {
	f := newFixture()
	s := serveFixture(t, f)
	b := openBrowser(t)
	b.mayFail.Store(true) // the fixture refuses changes, as a server does while the run goes on
	b.open(s.url(views()["memory"]))
	remove := "POST /api/runs/" + encoded(runName) + "/tips/remove"
	b.click("Remove")
	b.until(`document.querySelector(".actions").textContent.includes("Really remove")`)
	if slices.Contains(f.logged(), remove) {
		t.Error("a tip is removed without a question")
	}
	b.click("Really remove")
	b.until(`document.querySelector(".actions .problem")?.textContent.includes("empo2 memory pin RUN ID")`)
	if !slices.Contains(f.logged(), remove) {
		t.Error("the page does not ask to remove the tip")
	}
	b.run(`document.querySelector(".recall").open = true; const state = document.querySelector("textarea");
		state.value = "a red door"; state.dispatchEvent(new Event("input", {bubbles: true}))`)
	b.until(`!document.querySelector(".recall button").disabled`)
	b.click("Recall")
	b.until(`document.querySelector(".recall ol")?.textContent.includes("similarity 0.910")`)
}

func TestPageSavesCharts(t *testing.T) {
	s := serveFixture(t, newFixture())
	b := openBrowser(t)
	b.open(s.url(views()["compare"]))
	b.run(`window.saved = []; URL.createObjectURL = (blob) => (saved.push(blob), "data:,")`)
	b.click("CSV")
	b.click("SVG")
	csv := value[string](b, `saved[0].text()`)
	if !strings.HasPrefix(csv, "training episodes,\""+runName) && !strings.HasPrefix(csv, "training episodes,"+runName) ||
		strings.Count(csv, "\r\n") != 13 {
		t.Errorf("the CSV file is\n%s", csv)
	}
	b.run(`document.querySelector("[aria-labelledby=paired-title] button").click()`)
	b.is(`saved[2].text().then(t =>
		t.startsWith("task,run,step,against,its step,difference of success,low,high,pairs\r\n") &&
		t.includes(",48,runs/grpo-1,44,0.4,0.2,0.6,"))`)
	b.is(`saved[1].text().then(t => !t.includes("<script") &&
		new DOMParser().parseFromString(t, "image/svg+xml").querySelectorAll("polyline").length === 3)`)
}

func TestExportedFileNeedsNoServer(t *testing.T) {
	b := openBrowser(t)
	name := filepath.Join(t.TempDir(), "run.html")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := exportFile(file, os.DirFS("assets"), newFixture().exported(t)); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	for view, hash := range views() {
		if view == "beside" || view == "seeds" || view == "compare" {
			continue
		}
		b.open("file://" + name + hash)
		b.is(`!window.hacked && !document.querySelector(".problem") &&
			document.body.textContent.includes("An exported file")`)
	}
	b.open("file://" + name + views()["episodes"] + "?mode=off_policy")
	b.is(`document.querySelectorAll("a.place").length === 12`)
	b.open("file://" + name + "#/episode/" + encoded(runName) + "?kind=training&place=1%2F1%2F1")
	b.until(`document.querySelector(".problem")?.textContent.includes("not part of the exported file")`)
}
