package page

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator"
)

// What happens in a run is on the page soon after it is in run.db. The times are in the log of
// the test: they depend on the machine.
func TestPageShowsWhatHappens(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "one")
	w := recorded(t, dir)
	writeStatus(t, dir, "")
	b := openBrowser(t)
	page := serve(t, Options{Roots: []string{root}}).URL
	show := func(what, expression string, happen func()) {
		t.Helper()
		b.is("!(" + expression + ")")
		b.run(`window.seenAt = 0; new MutationObserver((_, o) => { if (` + expression + `) { seenAt = Date.now();
			o.disconnect() } }).observe(document.body, {subtree: true, childList: true, characterData: true})`)
		began := time.Now()
		happen()
		b.until("seenAt")
		t.Logf("%s: on the page after %d ms", what, value[int64](b, "seenAt")-began.UnixMilli())
	}
	b.open(page + "/#/now/one")
	b.until(`document.querySelector(".live-live") && document.querySelector(".plot")`)
	show("an event", `document.querySelector(".events")?.textContent.includes("the lamp is on")`, func() {
		if err := w.Event(context.Background(), 2, "trainer restart", "the lamp is on"); err != nil {
			t.Error(err)
		}
	})
	show("a step", `document.querySelector(".facts dd").textContent === "3"`, func() {
		w.commit(orchestrator.StepMetrics{Step: 3, Version: 3, Episodes: 6})
	})
	show("an evaluation", `document.querySelector(".tile .big").textContent === "75.0 %"`, func() {
		w.evaluate(orchestrator.Evaluation{Kind: "eval", Step: 3, Version: 3, Episodes: 16, Success: 0.75})
	})
	show("a phase", `document.querySelector(".phase")?.textContent.includes("5 / 8 episodes")`, func() {
		writeStatus(t, dir, `,"phase":{"name":"sampling","step":4,"of":9,"done":5,"total":8,"unit":"episodes"}`)
	})
	b.open(page + "/#/episodes/one")
	b.until(`document.querySelector("a.place")`)
	show("an episode", `[...document.querySelectorAll("a.place")].some(a => a.textContent === "4/0/1")`, func() {
		w.add("", orchestrator.OnPolicy, played(4, 0, 1, "a", 1))
	})
	b.open(page + "/#/memory/one")
	b.until(`document.querySelector("li.tip")`)
	show("a tip", `[...document.querySelectorAll("li.tip")].some(e => e.textContent.includes("push right"))`, func() {
		writer := played(4, 0, 2, "a", 1)
		writer.Tip = "push right"
		w.add("", orchestrator.OnPolicy, writer)
		w.commit(orchestrator.StepMetrics{Step: 4, Version: 4, Episodes: 8})
	})
}

// A tab that nobody sees asks for nothing, and catches up when it is shown.
func TestHiddenTabAsksForNothing(t *testing.T) {
	f := newFixture()
	s := serveFixture(t, f)
	b := openBrowser(t)
	b.open(s.url("#/now/" + encoded(runName)))
	b.until(`document.querySelector(".facts dd").textContent === "48" && document.querySelector(".plot")`)
	hide := func(hidden bool) {
		b.run(fmt.Sprintf(`Object.defineProperty(document, "hidden", {value: %t, configurable: true});
			document.dispatchEvent(new Event("visibilitychange"))`, hidden))
	}
	hide(true)
	b.run(`window.took = 0; const parse = JSON.parse; JSON.parse = (text) => (window.took++, parse(text))`)
	f.grow()
	b.until(`took > 0`) // the event has arrived
	b.is(`document.querySelector(".facts dd").textContent === "48"`)
	hide(false)
	b.until(`document.querySelector(".facts dd").textContent === "49"`)
	asked := strings.Join(f.logged(), "\n")
	if n := strings.Count(asked[strings.Index(asked, "event change"):], "/now"); n != 1 {
		t.Errorf("the tab has asked %d times:\n%s", n, asked)
	}
}

// viewer runs empo2 view as a process of its own.
func viewer(t *testing.T, program, root, port string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, "view", root, "--port", port)
	out, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = cmd.Stdout
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.Contains(lines.Text(), "127.0.0.1:"+port) {
		t.Fatalf("empo2 view says %q", lines.Text())
	}
	return cmd
}

// The process that serves the page is killed, and another one takes its port. The page says
// so, keeps what it knows, and goes on by itself.
func TestPageOutlivesItsProcess(t *testing.T) {
	chromium(t)
	program := os.Getenv("EMPO2_PROGRAM") // that scripts/test has built
	if program == "" {
		program = filepath.Join(t.TempDir(), "empo2")
		build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../cmd/empo2")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	root := t.TempDir()
	dir := filepath.Join(root, "one")
	w := recorded(t, dir)
	writeStatus(t, dir, "")
	first := viewer(t, program, root, port)
	b := openBrowser(t)
	b.open("http://127.0.0.1:" + port + "/#/now/one")
	b.until(`document.querySelector(".live-live") && document.querySelector(".facts dd").textContent === "2"`)
	b.mayFail.Store(true)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.until(`document.querySelector(".live-lost") &&
		document.body.textContent.includes("The connection to empo2 is lost")`)
	b.is(`document.querySelector(".facts dd").textContent === "2" && document.querySelector(".plot")`)
	w.commit(orchestrator.StepMetrics{Step: 3, Version: 3, Episodes: 6})
	began := time.Now()
	viewer(t, program, root, port)
	b.until(`document.querySelector(".live-live") && document.querySelector(".facts dd").textContent === "3"`)
	t.Logf("the page has the new step %d ms after the start of the process", time.Since(began).Milliseconds())
	b.is(`!document.body.textContent.includes("The connection to empo2 is lost")`)
	w.commit(orchestrator.StepMetrics{Step: 4, Version: 4, Episodes: 7})
	b.until(`document.querySelector(".facts dd").textContent === "4"`) // it follows the new process
}
