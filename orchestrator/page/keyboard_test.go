package page

import "testing"

// reachable lists what a reader can operate, as its name in a report.
const reachable = `(() => { window.nameOf = (e) => e.tagName + "." + e.className + " " +
	(e.ariaLabel || e.textContent || e.name || "").trim().slice(0, 40);
	window.all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
		.filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled);
	return all.length })()`

// focused describes a problem of the element that has the focus; empty: there is none.
const focused = `(() => { const e = document.activeElement, style = getComputedStyle(e);
	const box = e.getBoundingClientRect(), top = document.querySelector(".top").getBoundingClientRect().bottom;
	seen.add(e);
	if (style.outlineStyle === "none" || !parseFloat(style.outlineWidth)) return "no mark of the focus: " + nameOf(e);
	if (!e.closest(".top") && (box.bottom <= top || box.top >= innerHeight))
		return "not in sight: " + nameOf(e) + JSON.stringify([scrollY, box, top]);
	return "" })()`

// Every view works without a mouse: the Tab key reaches all that can be operated, and it is
// seen where the focus is.
func TestTabReachesEverything(t *testing.T) {
	s := serveFixture(t, newFixture())
	b := openBrowser(t)
	all := views()
	all["terms"] = all["memory"]
	for view, hash := range all {
		b.open(s.url(hash))
		b.run(`document.querySelectorAll("details").forEach(d => { d.open = true })`)
		if view == "terms" {
			b.press("?")
			b.until(`document.querySelector(".glossary")`)
			b.run(`document.body.focus(); document.activeElement.blur()`)
		}
		b.run(`document.querySelector(".skip").focus(); window.seen = new Set()`)
		n := value[int](b, reachable)
		for range n {
			if problem := value[string](b, focused); problem != "" {
				t.Errorf("%s: %s", view, problem)
			}
			b.press("Tab")
		}
		if missed := value[[]string](b, `all.filter(e => !seen.has(e)).map(nameOf)`); len(missed) > 0 {
			t.Errorf("%s: of %d, the Tab key does not reach %q", view, n, missed)
		}
	}
}

// Enter opens what has the focus, and Escape leads back: from an episode to its list, with its
// filters, and from there to the runs.
func TestEnterAndEscapeLeadThroughTheViews(t *testing.T) {
	s := serveFixture(t, newFixture())
	b := openBrowser(t)
	run := encoded(runName)
	focus := func(selector string) { b.run(`document.querySelector("` + selector + `").focus()`) }
	at := func(hash string) { // a view that is opened has the focus
		t.Helper()
		b.until(`(location.hash + "?").startsWith("` + hash + `?") &&
			document.activeElement.id === "main" && !document.querySelector("main").textContent.includes("Loading")`)
	}
	escape := func() { // from no element: the view that is opened then gets the focus
		b.run("document.activeElement.blur()")
		b.press("Escape")
	}
	b.open(s.url("#/"))
	focus("a.place")
	b.press("Enter")
	at("#/now/" + run)
	for i, view := range []string{"episodes", "memory"} {
		focus("nav a:nth-child(" + string(rune('2'+i)) + ")")
		b.press("Enter")
		at("#/" + view + "/" + run)
	}
	focus("li.tip .tip-text a") // its author
	b.press("Enter")
	at("#/episode/" + run)
	escape()
	at("#/episodes/" + run)
	escape()
	at("#/")
	focus("nav a:nth-child(4)")
	b.press("Enter")
	at("#/compare")
	focus(".choose label:nth-of-type(2) input")
	b.press(" ")
	b.until(`document.activeElement.checked && location.hash.includes("%2C")`)
	b.press("Escape") // out of the field
	escape()
	at("#/")
	b.open(s.url("#/memory/" + run))
	focus(".recall summary")
	b.press("Enter")
	b.until(`document.querySelector(".recall").open`)
	focus(".actions button:last-of-type")
	b.press("Enter")
	b.until(`document.querySelector(".actions").textContent.includes("Really remove")`)
	b.until(`document.activeElement.textContent.startsWith("Keep")`) // and not on what cannot be taken back
	b.press("Enter")
	b.until(`document.activeElement.textContent.startsWith("Remove")`)
	focus("header button")
	b.press("Enter")
	b.until(`document.activeElement.matches(".glossary")`)
	b.press("Escape")
	b.until(`!document.querySelector(".glossary")`)
}
