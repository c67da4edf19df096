package main

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
)

// readFormat reads the prompt template that the configuration names: one that
// is part of the program, the recipe's for the environment, or a file.
func readFormat(c config.Config) (sampler.Format, error) {
	name := c.Prompt.Template
	if name == "recipe" {
		name = c.Env.Name
		if !slices.Contains(sampler.PromptTemplates(), name) {
			return sampler.Format{}, &config.Error{Place: "prompt.template", Msg: "there is no recipe's template for env.name = " + name,
				Hint: "one of " + strings.Join(sampler.PromptTemplates(), ", ") + ", or the path of a file"}
		}
	}
	text, err := templateText(name)
	if err != nil {
		return sampler.Format{}, err
	}
	f, err := sampler.ParseFormat(name, text)
	if err != nil {
		return f, &config.Error{Place: "prompt.template", Msg: err.Error()}
	}
	return f, nil
}

func templateText(name string) (string, error) {
	if slices.Contains(sampler.PromptTemplates(), name) {
		return sampler.PromptTemplate(name)
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &config.Error{Place: "prompt.template", Msg: "there is no file " + name,
			Hint: "one of " + strings.Join(sampler.PromptTemplates(), ", ") + ", recipe, or the path of a file; empo2 prompt --write DIR writes the built-in ones out"}
	}
	return string(text), err
}
