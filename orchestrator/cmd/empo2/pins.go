package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/trainer_bridge/pyenv"
)

// checkPins compares what the run's results depend on with the record of the run:
// the files of the model, the user's GGUF file, and the effect of the chat template
// and of the tokenizer. A change is refused, or recorded as an event if the user
// accepts it. What has no record yet is recorded.
func (r *run) checkPins(ctx context.Context, t tools, accept bool) error {
	c := r.loop.Config
	now, err := filePins(ctx, c, t)
	if err != nil {
		return err
	}
	if known, ok := r.server.Backend.(interface{ Content() string }); ok {
		now[servedPin] = known.Content()
	}
	if r.template != nil {
		err = r.templatePins(ctx, now)
	}
	if err != nil {
		return err
	}
	before, err := r.ledger.Pins(ctx)
	if err != nil {
		return err
	}
	last, err := r.ledger.Last(ctx)
	if err != nil {
		return err
	}
	changed := changedPins(before, now)
	if len(changed) > 0 && !accept {
		return &config.Error{Place: "run " + r.ledger.Dir,
			Msg:  "what it depends on has changed: " + strings.Join(changed, ", "),
			Hint: "restore what was there, or continue with empo2 run --accept-changes, which records the change"}
	}
	maps.DeleteFunc(now, func(name, sum string) bool { return before[name] == sum })
	if len(now) == 0 {
		return nil
	}
	return r.ledger.SavePins(ctx, last.Step, now, strings.Join(changed, ", "))
}

// changedModel lists the files of the model that differ from those that a run recorded.
func changedModel(ctx context.Context, l *ledger.Ledger, c config.Config, t tools) ([]string, error) {
	now, err := filePins(ctx, c, t)
	if err != nil {
		return nil, err
	}
	before, err := l.Pins(ctx)
	if err != nil {
		return nil, err
	}
	notFile := func(name, _ string) bool { return !isModelPin(name) }
	maps.DeleteFunc(now, notFile)
	maps.DeleteFunc(before, notFile)
	return changedPins(before, now), nil
}

const (
	modelPin     = "model file "
	ggufPin      = "GGUF file"
	servedPin    = "served model" // what its name stands for on the server
	templatePin  = "chat template"
	tokenizerPin = "tokenizer"
	missingPin   = "missing"
)

// changedPins lists the names that have another value than before. A file of the
// model may also be missing. now gets the record of such a file.
func changedPins(before, now map[string]string) []string {
	models := slices.ContainsFunc(slices.Collect(maps.Keys(now)), isModelPin)
	var changed []string
	for name, was := range before {
		if _, ok := now[name]; !ok && models && isModelPin(name) {
			now[name] = missingPin
		}
		if is, ok := now[name]; ok && is != was {
			changed = append(changed, name)
		}
	}
	if len(before) > 0 {
		for name := range now {
			if _, ok := before[name]; !ok && isModelPin(name) {
				changed = append(changed, name+" (new)")
			}
		}
	}
	slices.Sort(changed)
	return changed
}

func isModelPin(name string) bool { return strings.HasPrefix(name, modelPin) }

// pinned are the files of a model that its outputs depend on.
var pinned = []string{"config.json", "generation_config.json", "tokenizer*", "vocab*", "merges*",
	"special_tokens_map.json",
	"added_tokens.json", "chat_template*", "*.safetensors", "*.safetensors.index.json"}

// filePins returns the checksums of the model's files and of the user's GGUF file.
func filePins(ctx context.Context, c config.Config, t tools) (map[string]string, error) {
	out := map[string]string{}
	cache, err := pyenv.CacheDir()
	if err != nil {
		return out, err
	}
	sums := openSums(filepath.Join(cache, "checksums.json"))
	add := func(name, path string) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		sum, err := sums.of(path)
		if err == nil {
			out[name] = sum
		}
		return err
	}
	entries, err := os.ReadDir(cmp.Or(t.model, c.Model.Path))
	if err != nil { // not a folder: nothing is trained
		entries = nil
	}
	for _, e := range entries {
		if isPinned(e.Name()) && !e.IsDir() {
			if err := add(modelPin+e.Name(), filepath.Join(cmp.Or(t.model, c.Model.Path), e.Name())); err != nil {
				return out, fmt.Errorf("checksum of the model: %w", err)
			}
		}
	}
	gguf := c.Sampler.LlamaCPP.GGUF
	if strings.HasSuffix(c.Model.Path, ".gguf") {
		gguf = cmp.Or(gguf, c.Model.Path)
	}
	if gguf != "" && c.Sampler.Backend == "llamacpp" {
		if err := add(ggufPin, gguf); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return out, fmt.Errorf("checksum of the GGUF file: %w", err)
		}
	}
	sums.save()
	return out, nil
}

// modelSums returns the checksums of the model's files by their names.
func modelSums(ctx context.Context, c config.Config) (map[string]string, error) {
	pins, err := filePins(ctx, c, tools{})
	out := map[string]string{}
	for name, sum := range pins {
		if file, ok := strings.CutPrefix(name, modelPin); ok {
			out[file] = sum
		}
	}
	return out, err
}

func isPinned(name string) bool {
	return slices.ContainsFunc(pinned, func(pattern string) bool {
		ok, err := filepath.Match(pattern, name)
		return ok && err == nil
	})
}

// pinConversation and pinTexts show what template and tokenizer do.
var (
	pinConversation = []chat.Message{
		chat.NewMessage(chat.RoleSystem, "You play a game."), chat.NewMessage(chat.RoleUser, "Where are you?"),
		chat.NewMessage(chat.RoleAssistant, "In a room."), chat.NewMessage(chat.RoleUser, "Open the door."),
	}
	pinTexts = []string{"It's the 3rd door; don't open 12,345 doors!", "Ünïcode: naïve Straße 日本語 🚪",
		"\tif x >= 10:\n\n    y"}
)

// templatePins adds what the chat template and the tokenizer make of fixed texts.
func (r *run) templatePins(ctx context.Context, pins map[string]string) error {
	var all strings.Builder
	for _, text := range pinTexts {
		ids, err := r.server.tokenizer.Tokenize(ctx, text)
		if err != nil {
			return fmt.Errorf("tokenize a test: %w", err)
		}
		fmt.Fprintln(&all, ids)
	}
	pins[tokenizerPin] = fmt.Sprintf("%x", sha256.Sum256([]byte(all.String())))
	text, err := r.renderTest(ctx)
	if err != nil {
		return fmt.Errorf("render a test: %w", err)
	}
	if plain := withoutDate(text, time.Now()); plain != text {
		r.loop.Log.Warn().Msg("the chat template writes today's date, so prompts differ from day to day; " +
			"many templates take another one: sampler.template_args = {date_string = \"26 Jul 2024\"}")
		text = plain
	}
	pins[templatePin] = fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	return nil
}

// renderTest returns the test conversation as the model's own template writes it,
// or as the ids of a named template.
func (r *run) renderTest(ctx context.Context) (string, error) {
	messages := pinConversation
	if r.template.Name() != chat.TemplateAuto || r.server.renderer == nil {
		ids, err := r.template.Extend(ctx, nil, messages...)
		return fmt.Sprint(ids), err
	}
	text, err := r.server.renderer.Render(ctx, messages, true)
	if errors.Is(err, chat.ErrRefused) { // it has no system role
		text, err = r.server.renderer.Render(ctx, messages[1:], true)
	}
	return text, err
}

// dateForms are the forms in which templates write a date.
var dateForms = []string{"2006-01-02", "02 Jan 2006", "2 Jan 2006", "January 2, 2006", "January 02, 2006",
	"02 January 2006", "2 January 2006", "01/02/2006", "02/01/2006"}

// withoutDate replaces the date of a day in a text, in any time zone.
func withoutDate(text string, day time.Time) string {
	for _, offset := range []int{-1, 0, 1} {
		for _, form := range dateForms {
			text = strings.ReplaceAll(text, day.AddDate(0, 0, offset).Format(form), "<date>")
		}
	}
	return text
}
