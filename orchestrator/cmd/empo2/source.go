package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/sampler"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// A source says what episodes are sampled with, outside the training loop: a
// configuration, and a version of a run if there is one. Close it at the end.
type source struct {
	config  config.Config
	run     *ledger.Ledger // open for reading, also while it is running; nil: there is none
	version int            // of the policy; 0: the base model
}

// Close closes the run.
func (s source) Close() error {
	if s.run == nil {
		return nil
	}
	return s.run.Close()
}

// String names the source for people.
func (s source) String() string {
	if s.run == nil {
		return "the base model " + s.config.Model.Path
	}
	return fmt.Sprintf("%s, version %d", s.run.Dir, s.version)
}

// openSource opens what target names: RUN or RUN@VERSION. Without a version it is
// the newest one. An empty target is the base model of the user's configuration.
func openSource(ctx context.Context, flags common, target string) (source, error) {
	if target == "" {
		c, err := flags.load()
		return source{config: c}, err
	}
	if flags.Profile != "" || len(flags.ConfigFile) > 0 {
		return source{}, &config.Error{Place: target, Msg: "a run has its own configuration",
			Hint: "leave -c and --profile out; --set changes keys of the run's configuration"}
	}
	dir, version, err := splitTarget(target)
	if err != nil {
		return source{}, err
	}
	run, err := ledger.OpenReader(ctx, dir)
	if err != nil {
		return source{}, err
	}
	s := source{run: run}
	err = s.read(ctx, version, flags.Set)
	if err != nil {
		return source{}, errors.Join(err, s.Close())
	}
	return s, nil
}

const newest = -1

// splitTarget returns the folder and the version that RUN@VERSION names.
func splitTarget(target string) (dir string, version int, err error) {
	dir, err = runArgument{Run: target}.dir()
	at := strings.LastIndexByte(target, '@')
	if err == nil || at < 0 {
		return dir, newest, err
	}
	if version, err = strconv.Atoi(target[at+1:]); err != nil || version < 0 {
		return "", 0, &config.Error{Place: target, Msg: "no such run or version",
			Hint: "write RUN or RUN@VERSION, for example vault@12"}
	}
	dir, err = runArgument{Run: target[:at]}.dir()
	return dir, version, err
}

// read reads the run's configuration, applies the user's --set flags and checks the
// version.
func (s *source) read(ctx context.Context, version int, sets []string) error {
	text, err := s.run.Config(ctx)
	if err != nil {
		return err
	}
	stored, err := parseStored(text, s.run.Dir)
	if err != nil {
		return err
	}
	now := stored
	now.Run.Dir, now.Run.Name = filepath.Split(filepath.Clean(s.run.Dir))
	now.Run.Dir = filepath.Clean(now.Run.Dir)
	s.config = withMovedBase(stored, now)
	s.config.Run.Dir, s.config.Run.Name = now.Run.Dir, now.Run.Name // users may move the folder
	if len(sets) > 0 {
		if s.config, err = config.With(s.config, sets); err != nil {
			return err
		}
	}
	last, err := s.run.Last(ctx)
	if s.version = version; version == newest {
		s.version = last.Version
	}
	if err == nil && s.version > last.Version {
		err = &config.Error{Place: fmt.Sprintf("%s@%d", s.run.Dir, version), Msg: "no such version",
			Hint: fmt.Sprintf("the newest version is %d", last.Version)}
	}
	return err
}

// checkModel returns an error if the version was trained on another model than the
// configuration names, or if the model's files have changed.
func (s source) checkModel(ctx context.Context, t tools) error {
	if s.version == 0 {
		return nil
	}
	changed, err := changedModel(ctx, s.run, s.config, t)
	if err == nil && len(changed) > 0 {
		err = &config.Error{Place: "model.path", Msg: fmt.Sprintf("version %d of %s was trained on another model: %s",
			s.version, s.run.Dir, strings.Join(changed, ", ")),
			Hint: "restore the model's files; " + safetext.Argument(s.run.Dir+"@0") + " is the base model"}
	}
	return err
}

// adapter returns the adapter of the version, verified.
func (s source) adapter(ctx context.Context) (sampler.Adapter, error) {
	if s.version == 0 {
		return sampler.Adapter{}, nil
	}
	dir, err := filepath.Abs(ledger.AdapterDir(s.run.Dir, s.version))
	if err != nil {
		return sampler.Adapter{}, err
	}
	if !fileExists(dir) {
		return sampler.Adapter{}, &config.Error{Place: fmt.Sprintf("%s@%d", s.run.Dir, s.version),
			Msg:  "there is no adapter of this version: it was removed, or its step trained nothing",
			Hint: "run.keep_checkpoints says how many versions a run keeps; version 0 is the base model"}
	}
	export, err := trainerbridge.ReadExport(dir)
	if err == nil {
		err = s.run.VerifyAdapter(ctx, s.version, export.Files)
	}
	if err != nil && ctx.Err() == nil { // the hint of these is for a run, which writes its newest version again
		msg, _ := splitHint(err)
		err = &config.Error{Place: fmt.Sprintf("%s@%d", s.run.Dir, s.version), Msg: msg,
			Hint: "name another version, or restore the folder from a backup; empo2 run writes only the newest version again"}
	}
	return sampler.Adapter{Version: s.version, Dir: export.Dir, GGUF: export.GGUF, Verify: export.Verify}, err
}
