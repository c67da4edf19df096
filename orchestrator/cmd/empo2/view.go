package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/page"
)

type viewCmd struct {
	Runs   []string `arg:"" name:"run" optional:"" help:"Runs, or folders of runs. Default: all runs in run.dir."`
	Port   int      `placeholder:"N" help:"Port of the page. Default: one that is free."`
	Export string   `placeholder:"FILE.html" help:"Write the page to one file, and do not serve it."`
}

// Help is shown by empo2 view --help.
func (viewCmd) Help() string {
	return `Serves a page with the curves of runs, their episodes with every conversation, and
their tips. The runs may be running: the page follows them. Nothing is changed. The page
is for this machine only, and loads nothing from elsewhere. Ctrl-C ends it.

--export writes one file with the numbers, the newest episodes and the tips. It needs no
server.

Examples:
  empo2 view                            all runs in ./runs
  empo2 view vault                      one run
  empo2 view runs/vault-compare         those of a comparison
  empo2 view vault --export vault.html`
}

func (cmd *viewCmd) Run(ctx context.Context, out *console) error {
	roots, err := cmd.roots()
	if err != nil {
		return err
	}
	return servePage(ctx, out, roots, cmd.Port)
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
	p := page.New(page.Options{Roots: roots})
	defer p.Close()
	out.print("the page is at http://%s (Ctrl-C ends it)", listener.Addr())
	return p.Serve(ctx, listener)
}
