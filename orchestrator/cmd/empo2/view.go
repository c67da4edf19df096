package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/page"
	"github.com/empo2/empo2/orchestrator/safetext"
)

type viewCmd struct {
	Runs   []string `arg:"" name:"run" optional:"" help:"Runs, or folders of runs. Default: all runs in run.dir."`
	Port   int      `xor:"how" placeholder:"N" help:"Port of the page. Default: one that is free."`
	Export string   `xor:"how" placeholder:"FILE.html" help:"Write the page to one file, and do not serve it."`
	Force  bool     `help:"Replace the file if it exists."`
}

// Help is shown by empo2 view --help.
func (viewCmd) Help() string {
	return `Serves a page with the curves of runs, their episodes with every conversation, and
their tips. The runs may be running: the page follows them. It changes nothing but tips
that you pin or remove, and these only while their run is not running. The page is for
this machine only, and loads nothing from elsewhere. Ctrl-C ends it.

--export writes one file with the numbers, the newest episodes and the tips. It needs no
server.

Examples:
  empo2 view                            all runs in ./runs
  empo2 view vault                      one run
  empo2 view runs/vault-compare         those of a comparison
  empo2 view vault --export vault.html`
}

func (cmd *viewCmd) Run(ctx context.Context, out *console) error {
	if cmd.Port < 0 || cmd.Port > 65535 {
		return fmt.Errorf("%w: --port %d is not a port\n  hint: 1 to 65535, or leave it out", errUsage, cmd.Port)
	}
	roots, err := cmd.roots()
	if err != nil {
		return err
	}
	if cmd.Export != "" {
		if err := checkOut("--export", cmd.Export, cmd.Force); err != nil {
			return err
		}
		return cmd.export(ctx, out, roots)
	}
	return servePage(ctx, out, roots, cmd.Port)
}

// export writes the page to a file, which appears when it is complete.
func (cmd *viewCmd) export(ctx context.Context, out *console, roots []string) error {
	p := page.New(pageOptions(roots))
	defer p.Close()
	if err := writeFile(cmd.Export, func(w io.Writer) error { return p.Export(ctx, w) }); err != nil {
		return fmt.Errorf("export the page: %w\n  hint: name a file in a folder that exists and is writable", err)
	}
	info, err := os.Stat(cmd.Export)
	if err != nil {
		return err
	}
	out.print("%s: %s, for any browser", cmd.Export, size(info.Size()))
	return nil
}

// roots returns the folders of the runs that the user named.
func (cmd *viewCmd) roots() ([]string, error) {
	if len(cmd.Runs) == 0 {
		dir := runsFolder()
		if !isFolder(dir) {
			return nil, &config.Error{Place: dir, Msg: "no such folder",
				Hint: "name a run or a folder of runs, for example empo2 view /data/runs"}
		}
		return []string{dir}, nil
	}
	roots := make([]string, len(cmd.Runs))
	for i, name := range cmd.Runs {
		roots[i] = name
		if !isFolder(name) {
			roots[i] = filepath.Join(runsFolder(), name)
		}
		if !isFolder(roots[i]) {
			return nil, &config.Error{Place: name, Msg: "no such run", Hint: "name the folder of a run, for example runs/vault"}
		}
		if err := checkRunFolder(roots[i]); err != nil {
			return nil, err
		}
	}
	return roots, nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// servePage serves the page of runs until ctx ends. It prints the address first.
func servePage(ctx context.Context, out *console, roots []string, port int) error {
	listener, err := page.Listen(ctx, port)
	if err != nil {
		return err
	}
	p := page.New(pageOptions(roots))
	defer p.Close()
	out.note("the page is at http://%s (Ctrl-C ends it)", listener.Addr())
	return p.Serve(ctx, listener)
}

// pageOptions are those of a page of runs.
func pageOptions(roots []string) page.Options {
	return page.Options{Roots: roots, Recall: recallForPage, Edit: editTip}
}

// viewFlag serves the page while a command goes on.
type viewFlag struct {
	View bool `help:"Print the address of a page that follows what is trained, before anything else."`
}

// start serves the page of the runs in a folder, which may not exist yet, until stop
// is called.
func (f viewFlag) start(ctx context.Context, out *console, dir string) (stop func(), err error) {
	if !f.View {
		return func() {}, nil
	}
	listener, err := page.ListenFor(ctx, dir)
	if err != nil {
		return nil, err
	}
	p := page.New(pageOptions([]string{dir}))
	out.note("the page is at http://%s while this goes on; later: empo2 view %s", listener.Addr(), safetext.Argument(dir))
	ctx, cancel := context.WithCancel(ctx)
	var served sync.WaitGroup
	served.Go(func() {
		if err := p.Serve(ctx, listener); err != nil { // the training goes on without it
			out.note("%v", err)
		}
	})
	return func() {
		cancel()
		served.Wait()
		_ = p.Close() // the runs were open for reading
	}, nil
}
