package webshop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// GoalKind says where the goals come from.
type GoalKind string

const (
	// Human goals are those of items_human_ins.json, written by people.
	Human GoalKind = "human"
	// Synthetic goals are made from the notes, one for each combination of a
	// product's options.
	Synthetic GoalKind = "synthetic"
)

// SeedMode says how the original that is reproduced treats Python's random
// stream, which prices, price limits and the order of the goals come from, and
// how it divides the goals.
type SeedMode string

const (
	// Verl seeds the stream at the start and again before the goals are
	// shuffled. Its first 500 goals are for evaluation, the others for training.
	Verl SeedMode = "verl"
	// Princeton shuffles the goals with seed 233. It draws prices and limits
	// without a seed; here they come from Config.Seed. Goals 0 to 499 are for
	// tests, 500 to 1499 for evaluation, the others for training.
	Princeton SeedMode = "princeton"
)

// RewardMode says what an episode's last step is paid.
type RewardMode string

const (
	// RawReward is the shop's own, 0 to 1.
	RawReward RewardMode = "raw"
	// SuccessReward is verl-agent's: 10 for a reward of 1, else 0.
	SuccessReward RewardMode = "success"
)

// Config describes a [Family]. Zero values of Mode, Goals, SeedMode and Reward
// stand for Text, Synthetic, Verl and RawReward.
type Config struct {
	// DataDir is the folder of the data files. The names that follow are
	// relative to it; files may be packed with gzip.
	DataDir string
	// Items is the catalogue. Empty: items_shuffle_1000.json, or
	// items_shuffle.json where there is no such file.
	Items string
	// Attributes is the file of attributes and synthetic instructions. Empty:
	// the items_ins_v2 file that belongs to the default of Items.
	Attributes string
	// Instructions is the file of human goals; read for those only. Empty:
	// items_human_ins.json.
	Instructions string
	// Nouns is a JSON object of lists of nouns by asin: those of the titles.
	// Empty: nouns are guessed, and rewards are not comparable with published
	// ones to the last digit. See [Info].
	Nouns string
	// OwnData says that files may have the names of the original's without
	// being those.
	OwnData bool
	// Checksums pins files: SHA-256 in hexadecimal by base name.
	Checksums map[string]string

	Mode     Mode
	Goals    GoalKind
	SeedMode SeedMode
	Seed     uint64
	Reward   RewardMode
	// NumProducts takes only the first items of the file; 0: all.
	NumProducts int
	// MaxSteps truncates an episode; 0: no limit. The originals have 15.
	MaxSteps int
	// MaxTasks bounds the tasks of each split, the first ones being kept; 0:
	// all goals. A task holds its instruction, some 200 bytes.
	MaxTasks int
	// ResidentBytes is the size of the items file up to which all products
	// are held in memory. Of a larger one they are read again when a page
	// shows them, and about 1.1 kB a product is held, the search index
	// included: some 1.5 GB for the full set, and twice that while it loads.
	// 0: 256 MiB. A packed file is always held in memory.
	ResidentBytes int64
}

const defaultResidentBytes = 256 << 20

// defaults fills in what is zero and names the files.
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

// validate checks a Config whose defaults are filled in.
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
