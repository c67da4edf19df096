package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/view"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish,runs" help:"bash, zsh or fish; runs: what the scripts complete runs with."`
}

// Help is shown by empo2 completion --help.
func (completionCmd) Help() string {
	return `Prints a script that completes commands, flags, profiles, configuration keys and the
runs in run.dir.

Examples:
  source <(empo2 completion bash)                                  in ~/.bashrc
  source <(empo2 completion zsh)                                   in ~/.zshrc, after compinit
  empo2 completion fish > ~/.config/fish/completions/empo2.fish`
}

// Run prints the script.
func (cmd *completionCmd) Run(ctx context.Context, app *kong.Kong, out *console) error {
	if cmd.Shell == "runs" {
		return printRunNames(ctx, out)
	}
	commands := completions(app.Model.Node, "")
	switch cmd.Shell {
	case "fish":
		out.print("%s", fishCompletion(commands))
	case "zsh":
		out.print("autoload -U +X bashcompinit && bashcompinit\n%s", bashCompletion(commands))
	default:
		out.print("%s", bashCompletion(commands))
	}
	return nil
}

// printRunNames prints the runs in run.dir as commands take them. There may be none.
func printRunNames(ctx context.Context, out *console) error {
	root := runsFolder()
	dirs, err := view.Find(ctx, root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the runs in %s: %w", root, err)
	}
	for _, dir := range dirs {
		name, err := filepath.Rel(root, dir)
		if err == nil && name != "." && !view.IsComparison(dir) {
			out.print("%s", name)
		}
	}
	return nil
}

// A completion is what may follow a command.
type completion struct {
	path     string // for example "memory export"; empty: no command yet
	commands []word
	flags    []word
	runs     bool                // an argument is a run
	values   map[string][]string // of flags that have few, for example --split
}

type word struct{ text, help string }

// completions lists a command and those below it.
func completions(n *kong.Node, path string) []completion {
	c := completion{path: path, values: map[string][]string{}}
	for _, group := range n.AllFlags(true) {
		for _, f := range group {
			c.flags = append(c.flags, word{"--" + f.Name, f.Help})
			switch {
			case f.Enum != "":
				c.values["--"+f.Name] = strings.Split(f.Enum, ",")
			case f.Name == "profile":
				c.values["--profile"] = config.Profiles()
			case f.Name == "set":
				for _, k := range slices.Sorted(maps.Keys(config.Values(config.Default()))) {
					c.values["--set"] = append(c.values["--set"], k+"=")
				}
			}
		}
	}
	for _, p := range n.Positional {
		c.runs = c.runs || p.Name == "run"
	}
	var below []completion
	for _, child := range n.Children {
		if child.Type != kong.CommandNode || child.Hidden {
			continue
		}
		c.commands = append(c.commands, word{child.Name, child.Help})
		below = append(below, completions(child, strings.TrimSpace(path+" "+child.Name))...)
	}
	return append([]completion{c}, below...)
}

// bashCompletion is a script for bash, which zsh understands too.
func bashCompletion(all []completion) string {
	var b strings.Builder
	b.WriteString(`_empo2() {
  local word path= words= values= runs= cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="$path ${COMP_WORDS[i]}"
    case "${word# }" in
`)
	var paths []string
	for _, c := range all {
		if c.path != "" {
			paths = append(paths, fmt.Sprintf("%q", c.path))
		}
	}
	fmt.Fprintf(&b, "      %s) path=\"${word# }\" ;;\n    esac\n  done\n  case \"$path\" in\n", strings.Join(paths, "|"))
	for _, c := range all {
		fmt.Fprintf(&b, "    %q) words=%q\n      case \"$prev\" in\n", c.path, texts(c.commands)+" "+texts(c.flags))
		for _, flag := range slices.Sorted(maps.Keys(c.values)) {
			fmt.Fprintf(&b, "        %s) values=%q ;;\n", flag, strings.Join(c.values[flag], " "))
		}
		if c.runs {
			b.WriteString("      esac\n      runs=1 ;;\n")
			continue
		}
		b.WriteString("      esac ;;\n")
	}
	b.WriteString(`  esac
  [[ "$prev" == --set && "$values" ]] && compopt -o nospace 2> /dev/null
  [[ "$runs" && -z "$values" && "$cur" != -* ]] && words="$(empo2 completion runs 2> /dev/null) $words"
  COMPREPLY=($(compgen -W "${values:-$words}" -- "$cur"))
}
complete -o bashdefault -o default -F _empo2 empo2`)
	return b.String()
}

func texts(words []word) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w.text
	}
	return strings.Join(out, " ")
}

// fishCompletion is a script for fish.
func fishCompletion(all []completion) string {
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
	}
	var b strings.Builder
	for _, c := range all {
		condition := "__fish_use_subcommand"
		if names := strings.Fields(c.path); len(names) > 0 {
			condition = "__fish_seen_subcommand_from " + strings.Join(names, "; and __fish_seen_subcommand_from ")
		}
		for _, w := range c.commands {
			fmt.Fprintf(&b, "complete -c empo2 -n %s -a %s -d %s\n", quote(condition), w.text, quote(w.help))
		}
		if c.runs {
			fmt.Fprintf(&b, "complete -c empo2 -n %s -a '(empo2 completion runs 2> /dev/null)' -d run\n", quote(condition))
		}
		for _, w := range c.flags {
			name := strings.TrimPrefix(w.text, "--")
			fmt.Fprintf(&b, "complete -c empo2 -n %s -l %s -d %s", quote(condition), name, quote(w.help))
			if values := c.values[w.text]; len(values) > 0 {
				fmt.Fprintf(&b, " -x -a %s", quote(strings.Join(values, " ")))
			}
			b.WriteString("\n")
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
