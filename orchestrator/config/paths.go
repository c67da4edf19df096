package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// paths are the keys whose value is a path.
func paths(c *Config) map[string]*string {
	return map[string]*string{
		"model.path": &c.Model.Path, "run.dir": &c.Run.Dir, "prompt.template": &c.Prompt.Template,
		"env.scienceworld.jar": &c.Env.ScienceWorld.Jar, "env.scienceworld.java": &c.Env.ScienceWorld.Java,
		"env.webshop.data": &c.Env.WebShop.Data, "env.webshop.nouns": &c.Env.WebShop.Nouns,
		"sampler.llamacpp.binary": &c.Sampler.LlamaCPP.Binary, "sampler.llamacpp.gguf": &c.Sampler.LlamaCPP.GGUF,
		"sampler.vllm.python": &c.Sampler.VLLM.Python,
	}
}

// expandHome replaces ~ at the beginning of a path by the home folder, because no
// shell does it in a file and in --set.
func expandHome(c *Config) {
	home, err := os.UserHomeDir()
	if err != nil {
		return // pathRules refuses the path
	}
	for _, path := range paths(c) {
		if *path == "~" {
			*path = home
		} else if rest, ok := strings.CutPrefix(*path, "~/"); ok {
			*path = filepath.Join(home, rest)
		}
	}
}

// pathRules refuse a ~ that could not be replaced, and variables, which only a shell replaces.
func pathRules(c Config) []rule {
	var out []rule
	for key, path := range paths(&c) {
		out = append(out, rule{key, !strings.HasPrefix(*path, "~"),
			fmt.Sprintf("%s: only ~ and ~/… stand for a home folder, and only if HOME is set", *path),
			"write the whole path; ./~… is a name that begins with ~"})
		out = append(out, rule{key, !strings.HasPrefix(*path, "$"),
			*path + ": variables are not replaced here", "write the whole path; ./$… is a name that begins with $"})
	}
	return out
}
