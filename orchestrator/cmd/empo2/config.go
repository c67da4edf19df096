package main

import "github.com/empo2/empo2/orchestrator/config"

type configCmd struct{ common }

// Help is shown by empo2 config --help.
func (configCmd) Help() string {
	return `Prints the configuration that a run with the same flags would use: every key, its
value and its meaning.

Examples:
  empo2 config                             the defaults, or ./config.toml
  empo2 config --profile cpu
  empo2 config --set algorithm.group_size=32 > my.toml`
}

func (cmd *configCmd) Run(out *console) error {
	c, err := cmd.load()
	if err == nil {
		err = checkNames(c)
	}
	if err != nil {
		return err
	}
	// The files may be on another machine.
	if c.Model.Path != "" {
		out.noteProblem(checkModels(c))
	}
	out.noteProblem(checkPrograms(c))
	return config.Write(out.out, c)
}
