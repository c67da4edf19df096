package numbered

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/envs"
)

func TestSetText(t *testing.T) {
	f := func(text string, want Set, wantErr bool) {
		t.Helper()
		var got Set
		err := got.UnmarshalText([]byte(text))
		if (err != nil) != wantErr {
			t.Errorf("%q: error %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	f("", nil, false)
	f("7", Set{7}, false)
	f(" 3-5, 9 ,1 ", Set{3, 4, 5, 9, 1}, false)
	f("5-3", nil, true)
	f("x", nil, true)
	f("-1", nil, true)
	f("1-2-3", nil, true)
	f("0-99999999999", nil, true)
	f("99999999999999999999", nil, true)
}

func FuzzSetText(f *testing.F) {
	f.Add("1-3,5")
	f.Fuzz(func(t *testing.T, text string) {
		var s Set
		if s.UnmarshalText([]byte(text)) == nil && len(s) > 2*maxTasks {
			t.Errorf("%q has %d tasks", text, len(s))
		}
	})
}

func TestNumberIsTheInverseOfOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		train := Set(rapid.SliceOfNDistinct(rapid.Uint64Range(0, 99), 1, 20, rapid.ID).Draw(t, "train"))
		test := Set(rapid.SliceOfDistinct(rapid.Uint64Range(100, 199), rapid.ID).Draw(t, "test"))
		tasks, err := New("x", Splits{Train: train, Test: test}, envs.Task{Instruction: "go"})
		if err != nil {
			t.Fatal(err)
		}
		for split, set := range map[envs.Split]Set{envs.Train: train, envs.Eval: train, envs.Test: test} {
			list, err := tasks.Of(split)
			if err != nil || len(list) != len(set) {
				t.Fatalf("%s: %d tasks, error %v", split, len(list), err)
			}
			for i, task := range list {
				if n, err := tasks.Number(task); err != nil || n != set[i] || task.Seed != n || task.Instruction != "go" {
					t.Fatalf("%+v is number %d, error %v; want %d", task, n, err, set[i])
				}
			}
		}
	})
}

func TestBadSplits(t *testing.T) {
	f := func(s Splits, want string) {
		t.Helper()
		if _, err := New("x", s, envs.Task{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	f(Splits{}, "no training task")
	f(Splits{Train: Set{1, 1}}, "twice")
	f(Splits{Train: Set{1, 2}, Test: Set{2}}, "in train and in test")
}

func TestUnknownTasks(t *testing.T) {
	tasks, err := New("x", Splits{Train: Set{1}}, envs.Task{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "1", "x-", "x-2", "y-1", "x--1"} {
		if n, err := tasks.Number(envs.Task{ID: id}); err == nil {
			t.Errorf("%q is number %d, want an error", id, n)
		}
	}
}
