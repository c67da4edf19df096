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
		out.print("autoload -U +X bashcompinit && bashcompinit\n%s\n%s", bashCompletion(commands), zshEnd)
	default:
		out.print("%s\n%s", bashCompletion(commands), bashEnd)
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
	files    bool                // an argument may be a file
	values   map[string][]string // of flags that have few, for example --split
}

// word is a command, a flag or a value.
type word struct {
	text, help string
	valued     bool // a flag that takes a value
}

// completions lists a command and those below it.
func completions(n *kong.Node, path string) []completion {
	c := completion{path: path, values: map[string][]string{}}
	for _, group := range n.AllFlags(true) {
		for _, f := range group {
			c.flags = append(c.flags, word{"--" + f.Name, f.Help, !f.IsBool()})
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
		c.files = c.files || p.Enum == "" && !slices.Contains([]string{"run", "place", "id"}, p.Name)
		for _, value := range strings.Split(p.Enum, ",") {
			if p.Enum != "" {
				c.commands = append(c.commands, word{text: value})
			}
		}
	}
	var below []completion
	for _, child := range n.Children {
		if child.Type != kong.CommandNode || child.Hidden {
			continue
		}
		c.commands = append(c.commands, word{text: child.Name, help: child.Help})
		below = append(below, completions(child, strings.TrimSpace(path+" "+child.Name))...)
	}
	return append([]completion{c}, below...)
}

// bashCompletion is a function for bash, which zsh understands too. In zsh, path and words
// have a meaning of their own.
func bashCompletion(all []completion) string {
	var b strings.Builder
	b.WriteString(`_empo2() {
  local word at= choices= values= runs= cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="$at ${COMP_WORDS[i]}"
    case "${word# }" in
`)
	fmt.Fprintf(&b, "      %s) at=\"${word# }\" ;;\n    esac\n  done\n  case \"$at\" in\n", strings.Join(paths(all), "|"))
	for _, c := range all {
		fmt.Fprintf(&b, "    %q) choices=%q\n      case \"$prev\" in\n", c.path, texts(c.commands)+" "+texts(c.flags))
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
  [[ "$runs" && -z "$values" && "$cur" != -* ]] && choices="$(empo2 completion runs 2> /dev/null) $choices"
  COMPREPLY=($(compgen -W "${values:-$choices}" -- "$cur"))`)
	return b.String()
}

// The ends of the functions. A key ends with =, after which no space follows: bash is
// told so, and zsh gets the other words with their spaces.
const (
	bashEnd = `  [[ "$prev" == --set && "$values" ]] && compopt -o nospace 2> /dev/null
}
complete -o bashdefault -o default -F _empo2 empo2`
	zshEnd = `  [[ "$prev" == --set && "$values" ]] || COMPREPLY=("${COMPREPLY[@]/%/ }")
}
complete -o bashdefault -o default -o nospace -F _empo2 empo2`
)

// paths returns the commands as they are typed, quoted.
func paths(all []completion) []string {
	var out []string
	for _, c := range all {
		if c.path != "" {
			out = append(out, fmt.Sprintf("%q", c.path))
		}
	}
	return out
}

func texts(words []word) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w.text
	}
	return strings.Join(out, " ")
}

// fishStart is a function of fish that tells whether a command was typed, and no files
// beside what is completed.
const fishStart = `function __empo2_at
  set -l at
  for word in (commandline -opc)[2..]
    contains -- (string join -- ' ' $at $word) %s
    and set -a at $word
  end
  test "$at" = "$argv[1]"
end
complete -c empo2 -f
`

// fishCompletion is a script for fish.
func fishCompletion(all []completion) string {
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
	}
	var b strings.Builder
	fmt.Fprintf(&b, fishStart, strings.Join(paths(all), " "))
	for _, c := range all {
		add := func(format string, args ...any) {
			fmt.Fprintf(&b, "complete -c empo2 -n %s%s\n", quote("__empo2_at "+quote(c.path)), fmt.Sprintf(format, args...))
		}
		for _, w := range c.commands {
			add(" -a %s -d %s", w.text, quote(w.help))
		}
		if c.runs {
			add(" -a '(empo2 completion runs 2> /dev/null)' -d run")
		}
		if c.files {
			add(" -F")
		}
		for _, w := range c.flags {
			flag := " -l " + strings.TrimPrefix(w.text, "--") + " -d " + quote(w.help)
			switch values := c.values[w.text]; {
			case len(values) > 0:
				flag += " -x -a " + quote(strings.Join(values, " "))
			case w.valued:
				flag += " -r -F"
			}
			add("%s", flag)
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
