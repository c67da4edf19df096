package main

import "runtime/debug"

type versionCmd struct{}

func (versionCmd) Run(out *console) error {
	out.print("%s", version())
	return nil
}

// version describes this build of empo2.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "empo2 (unknown version)"
	}
	text := "empo2 " + info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			text += " " + s.Value
		}
	}
	return text + " " + info.GoVersion
}
