package config

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func formatAny(v any) string {
	if list, ok := v.([]any); ok {
		parts := make([]string, len(list))
		for i, x := range list {
			parts[i] = formatAny(x)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return format(reflect.ValueOf(v))
}

// Every key of an earlier version is still valid, or its error names the
// replacement, in a file and in --set.
func TestKeysOfAnEarlierVersion(t *testing.T) {
	var old map[string]any
	if _, err := toml.DecodeFile("testdata/config-c4ce585.toml", &old); err != nil {
		t.Fatal(err)
	}
	n := 0
	eachKey("", old, func(key string, value any) {
		n++
		now, isOld := renamed[key]
		if _, valid := keys()[key]; valid == isOld {
			t.Errorf("%s: valid %v, renamed %v", key, valid, isOld)
		}
		if !isOld {
			return
		}
		i := strings.LastIndex(key, ".")
		file := writeFile(t, "old.toml", "["+key[:i]+"]\n"+key[i+1:]+" = "+formatAny(value)+"\n")
		_, fromFile := load("", []string{file}, nil)
		_, fromSet := load("", nil, []string{key + "=" + formatAny(value)})
		for where, err := range map[string]error{file + ":2": fromFile, "--set " + key: fromSet} {
			want := key + " is now " + now
			if now == "" {
				want = key + " is no longer needed"
			}
			if err == nil || !strings.Contains(err.Error(), where) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", where, err)
			}
		}
	})
	if n < 100 {
		t.Errorf("the earlier version has %d keys", n)
	}
	for key, now := range renamed {
		name, _, _ := strings.Cut(strings.Trim(now, ","), " ")
		if _, valid := keys()[strings.TrimSuffix(name, ",")]; !valid && now != "" {
			t.Errorf("%s: %q is not a key", key, now)
		}
	}
}

// The error for a file of an earlier version lists all its old keys. The same is
// true for the configuration in a run's folder.
func TestFileOfAnEarlierVersion(t *testing.T) {
	text, err := os.ReadFile("testdata/config-c4ce585.toml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse(string(text), "runs/old/run.db")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"runs/old/run.db:13: ", "run.minutes is now run.max_seconds",
		"trainer.model is now model.path"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwants %q", err, want)
		}
	}
	if n := strings.Count(err.Error(), " is now "); n != len(renamed)-1 {
		t.Errorf("%d of %d keys are named", n, len(renamed))
	}
}

func TestSuggestions(t *testing.T) {
	f := func(key, want string) {
		t.Helper()
		if _, err := load("", nil, []string{key + "=1"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", key, err, want)
		}
	}
	f("algorithm.num_generations", "here it is algorithm.group_size")
	f("rollout.n", "here it is algorithm.group_size")
	f("epsilon", "here it is loss.clip_low")
	f("loss.beta", "here it is loss.kl")
	f("trainer.lora_alpha", "here it is trainer.alpha")
	f("sampler.max-model-len", "max_model_len")
	f("max_completion_length", "here it is loss.average_length or rollout.max_tokens")
	f("optimizer.lr", "here it is optimizer.learning_rate")
	f("run.stepz", `nearest valid key is "run.steps"`)
	f("trainer.lora_rank", `nearest valid key is "trainer.rank"`)
	f("vault.doors", `nearest valid key is "env.vault.doors"`)
	f("foo.quux", "empo2 config prints every key")
	f("algorithm.nothing", "empo2 config prints every key")
}
