package config

import (
	"embed"
	"io/fs"
	"strings"
)

// Demo is the profile of the embedded demonstration.
const Demo = "demo"

//go:embed profiles/*.toml
var profileFiles embed.FS

// Profiles are the names of all profiles, sorted.
func Profiles() []string {
	entries, err := fs.ReadDir(profileFiles, "profiles")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".toml"))
	}
	return names
}

// withProfile returns the defaults, overridden by a profile. place is where the
// profile is named, for errors.
func withProfile(name, place string) (Config, error) {
	c := Default()
	if name == "" {
		return c, nil
	}
	text, err := fs.ReadFile(profileFiles, "profiles/"+name+".toml")
	if err != nil {
		return c, &Error{place, `unknown profile "` + name + `"`, "one of " + strings.Join(Profiles(), ", ")}
	}
	err = decode(string(text), "profile "+name, &c, map[string]string{})
	c.Profile = name
	return c, err
}
