package main

import (
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/prompt"
)

// readPromptTemplate reads the prompt template that the configuration names: a built-in
// one, the recipe's for the environment, or a file.
func readPromptTemplate(c config.Config) (prompt.Template, error) {
	name := c.Prompt.Template
	if name == "recipe" {
		name = c.Env.Name
		if !slices.Contains(prompt.Names(), name) {
			return prompt.Template{}, &config.Error{Place: "prompt.template",
				Msg:  "there is no recipe's template for env.name = " + name,
				Hint: "one of " + strings.Join(prompt.Names(), ", ") + ", or the path of a file"}
		}
	}
	text, err := templateText(name)
	if err != nil {
		return prompt.Template{}, err
	}
	f, err := prompt.Parse(name, text)
	if err != nil {
		return f, &config.Error{Place: "prompt.template", Msg: err.Error()}
	}
	return f, nil
}

func templateText(name string) (string, error) {
	if slices.Contains(prompt.Names(), name) {
		return prompt.Source(name)
	}
	if !fileExists(name) {
		return "", &config.Error{Place: "prompt.template", Msg: "there is no file " + name,
			Hint: "one of " + strings.Join(prompt.Names(), ", ") +
				", recipe, or the path of a file; empo2 prompt --write DIR writes the built-in templates"}
	}
	return config.ReadText(name, "prompt.template: "+name)
}
