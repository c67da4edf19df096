package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// A side is one of the two settings that empo2 ab compares. Close its source at the
// end.
type side struct {
	source
	name   string // A or B
	text   string // as the user wrote it
	choice []string
	texts  prompt.Template

	// Set when it is opened.
	player *player
	policy sampler.Policy
	recall rollout.RecallFunc
	tips   string // says which tips are shown
}

// sideParts are the parts of a side as the user wrote it.
type sideParts struct {
	target string   // RUN or RUN@VERSION
	sets   []string // KEY=VALUE
	tips   []string // of tips=…
}

// parseSide splits a side into its parts. A part is a prompt template (its path, or the
// name of a built-in one), a run, KEY=VALUE, or tips=none, auto or a text.
func parseSide(text string) (out sideParts, err error) {
	for _, part := range splitSets(cmp.Or(text, ",")) { // else an empty side has no part
		part = strings.TrimSpace(part)
		key, value, isSet := strings.Cut(part, "=")
		switch info, failed := os.Stat(part); {
		case part == "":
			return out, &config.Error{Place: text, Msg: "a part is empty",
				Hint: "write a prompt template's path, RUN[@VERSION] or KEY=VALUE, with commas between them"}
		case failed == nil && info.Mode().IsRegular() || slices.Contains(prompt.Names(), part):
			out.sets = append(out.sets, "prompt.template="+part)
		case isSet && strings.TrimSpace(key) == "tips":
			out.tips = append(out.tips, unquoted(value))
		case isSet:
			out.sets = append(out.sets, part)
		case out.target != "":
			return out, &config.Error{Place: text, Msg: fmt.Sprintf("names two runs, %s and %s", out.target, part),
				Hint: "one side is one run"}
		default:
			out.target = part
		}
	}
	return out, nil
}

// unquoted removes the quotes around a text.
func unquoted(text string) string {
	text = strings.TrimSpace(text)
	if n := len(text); n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
		return text[1 : n-1]
	}
	return text
}

// openSide reads the configuration and the prompt template of a side. base is the run
// that both sides begin with; empty: the configuration.
func openSide(ctx context.Context, flags common, name, text, base string) (*side, error) {
	parts, err := parseSide(text)
	if err != nil {
		return nil, err
	}
	if parts.target == "" {
		parts.target = base
	}
	flags.Set = append(append([]string{}, flags.Set...), parts.sets...)
	if parts.target != "" && parts.target != base { // it has a configuration of its own
		flags.ConfigFile, flags.Profile = nil, ""
	}
	s, err := openSource(ctx, flags, parts.target)
	if err != nil {
		return nil, fmt.Errorf("side %s: %w", name, err)
	}
	out := &side{source: s, name: name, text: text, choice: parts.tips}
	if out.texts, err = readPromptTemplate(s.config); err != nil {
		return nil, errors.Join(fmt.Errorf("side %s: %w", name, err), s.Close())
	}
	return out, nil
}

// served is the part of the configuration that server and environment depend on, as
// text. Sides with the same one share them.
func (s *side) served() (string, error) {
	c, none := s.config, config.Config{}
	c.Prompt, c.Eval, c.Memory, c.Novelty, c.Loss = none.Prompt, none.Eval, none.Memory, none.Novelty, none.Loss
	c.Optimizer, c.Divergence = none.Optimizer, none.Divergence
	c.Rollout.Temperature, c.Rollout.TopP, c.Rollout.TopK, c.Rollout.Stop = 0, 0, 0, nil
	return configText(c)
}

func configText(c config.Config) (string, error) {
	var b strings.Builder
	err := config.Write(&b, c)
	return b.String(), err
}

// identity is a checksum of all that the side's episodes depend on.
func (s *side) identity() (string, error) {
	text, err := configText(s.config)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%q\n%s", text, s.version, s.choice,
		s.texts.SHA256()))), nil
}

// open opens what the side needs, or shares the player of the other side.
func (s *side) open(open func(source) (*player, error), other *side) (err error) {
	if other != nil {
		mine, err := s.served()
		if err != nil {
			return err
		}
		theirs, err := other.served()
		if err != nil {
			return err
		}
		if mine == theirs {
			s.player = other.player
		}
	}
	if s.player == nil {
		if s.player, err = open(s.source); err != nil {
			return fmt.Errorf("side %s: %w", s.name, err)
		}
	}
	return nil
}

// start starts the server, unless the other side did, and has the version served.
func (s *side) start(ctx context.Context, out *console) (err error) {
	if s.player.driver == nil {
		if err := s.player.start(ctx, out); err != nil {
			return fmt.Errorf("side %s: %w", s.name, err)
		}
	}
	if s.policy, err = s.player.serve(ctx, s.source); err != nil {
		return fmt.Errorf("side %s: %w", s.name, err)
	}
	if s.recall, s.tips, err = s.player.tips(ctx, s.source, s.choice); err != nil {
		return fmt.Errorf("side %s: %w", s.name, err)
	}
	return nil
}
