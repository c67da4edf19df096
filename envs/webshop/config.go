package webshop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// GoalKind is the source of the goals.
type GoalKind string

const (
	// Human goals were written by people (items_human_ins.json).
	Human GoalKind = "human"
	// Synthetic goals are generated from the attributes file, one for each
	// combination of a product's options.
	Synthetic GoalKind = "synthetic"
)

// SeedMode selects one of two originals. They differ in the use of Python's random
// stream (for prices, price limits and the order of the goals) and in the splits.
type SeedMode string

const (
	// Verl (verl-agent) seeds the stream at the start and again before it
	// shuffles the goals. The first 500 goals are for evaluation, the others for
	// training.
	Verl SeedMode = "verl"
	// Princeton (the authors' program) shuffles the goals with seed 233. It draws
	// prices and limits without a seed. Here they depend on Config.Seed. Goals 0
	// to 499 are for tests, 500 to 1499 for evaluation, the others for training.
	Princeton SeedMode = "princeton"
)

// RewardMode is the reward of the last step of an episode.
type RewardMode string

const (
	// RawReward is the shop's reward, 0 to 1.
	RawReward RewardMode = "raw"
	// SuccessReward is 10 for a shop's reward of 1, and 0 for others, as in
	// verl-agent.
	SuccessReward RewardMode = "success"
)

// Config describes a [Family]. The defaults of Mode, Goals, SeedMode and Reward are
// Text, Synthetic, Verl and RawReward.
type Config struct {
	// DataDir is the folder of the data files. The following names are relative
	// to it. Files may be compressed with gzip.
	DataDir string
	// Items is the catalogue. Default: items_shuffle_1000.json if it exists, and
	// items_shuffle.json if not.
	Items string
	// Attributes is the file of attributes and synthetic instructions. Default:
	// the items_ins_v2 file for the default of Items.
	Attributes string
	// Instructions is the file of human goals. It is read only for these.
	// Default: items_human_ins.json.
	Instructions string
	// Nouns is a JSON object that maps an asin to the nouns of its title. Empty:
	// nouns are guessed, and some rewards differ from published ones. See [Info].
	Nouns string
	// OwnData allows your own files with the names of the original files.
	OwnData bool
	// Checksums are the required SHA-256 sums (hexadecimal) by file name.
	Checksums map[string]string

	Mode     Mode
	Goals    GoalKind
	SeedMode SeedMode
	Seed     uint64
	Reward   RewardMode
	// NumProducts is the number of items to read from the file. 0: all.
	NumProducts int
	// MaxSteps truncates an episode. 0: no limit. The originals use 15.
	MaxSteps int
	// MaxTasks selects the first tasks of each split. 0: all goals. A task takes
	// about 200 bytes.
	MaxTasks int
	// ResidentBytes is the largest size of an items file whose products are all
	// in memory. Products of a larger file are read again when a page shows them.
	// Then each product takes about 1.1 kB with its part of the search index. The
	// full set takes about 1.5 GB, and twice as much during loading. Default: 256
	// MiB. Products of a compressed file are always in memory.
	ResidentBytes int64
}

const defaultResidentBytes = 256 << 20

// defaults replaces zero values and finds the files.
func (c Config) defaults() Config {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set((*string)(&c.Mode), string(Text))
	set((*string)(&c.Goals), string(Synthetic))
	set((*string)(&c.SeedMode), string(Verl))
	set((*string)(&c.Reward), string(RawReward))
	small := c.Items == "" && exists(filepath.Join(c.DataDir, "items_shuffle_1000.json"))
	full := c.Items == "" && !small && exists(filepath.Join(c.DataDir, "items_shuffle.json"))
	if full {
		set(&c.Items, "items_shuffle.json")
		set(&c.Attributes, "items_ins_v2.json")
	}
	set(&c.Items, "items_shuffle_1000.json")
	set(&c.Attributes, "items_ins_v2_1000.json")
	set(&c.Instructions, "items_human_ins.json")
	for _, path := range []*string{&c.Items, &c.Attributes, &c.Instructions, &c.Nouns} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(c.DataDir, *path)
		}
	}
	if c.ResidentBytes == 0 {
		c.ResidentBytes = defaultResidentBytes
	}
	return c
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// validate checks a Config with its defaults.
func (c Config) validate() error {
	for _, check := range []struct {
		ok     bool
		format string
		value  any
	}{
		{c.Mode == Text || c.Mode == TextRich, "mode = %q, want text or text_rich", c.Mode},
		{c.Goals == Human || c.Goals == Synthetic, "goals = %q, want human or synthetic", c.Goals},
		{c.SeedMode == Verl || c.SeedMode == Princeton, "seed mode = %q, want verl or princeton", c.SeedMode},
		{c.Reward == RawReward || c.Reward == SuccessReward, "reward = %q, want raw or success", c.Reward},
		{c.NumProducts >= 0, "num products = %d, want 0 (all) or more", c.NumProducts},
		{c.MaxSteps >= 0, "max steps = %d, want 0 (no limit) or more", c.MaxSteps},
		{c.MaxTasks >= 0, "max tasks = %d, want 0 (all) or more", c.MaxTasks},
		{c.ResidentBytes >= 0, "resident bytes = %d, want 0 (the default) or more", c.ResidentBytes},
	} {
		if !check.ok {
			return fmt.Errorf("webshop: "+check.format, check.value)
		}
	}
	return nil
}
