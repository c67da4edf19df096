package ledger

import (
	"bytes"
	stdflate "compress/flate"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// earlierChecksum is the checksum of formats 1 to 3.
func earlierChecksum(values ...any) string {
	sum := sumOf(values)
	return hex.EncodeToString(sum[:])
}

// What was compressed with the dictionary cannot be read with another one: a frame as
// runs have stored it is read, and one with another dictionary is an error. A change that
// needs another frame here needs another dictionaryID, and the old dictionary beside it.
func TestTheDictionaryNeverChanges(t *testing.T) {
	frame, err := hex.DecodeString("28b52ffd050002cd0000687b70756c6c206a616465227d5d03008a92245a1ace37f21561f76557")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat(`{"turns":[{"action":"pull jade"}]}`, 2)
	if got, err := inflate(frame); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	changed := bytes.Replace(dictionary, []byte(`"action"`), []byte(`"notion"`), -1)
	other, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(dictionaryID, changed))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := inflate(other.EncodeAll([]byte(want), nil)); err == nil && string(got) != want {
		t.Errorf("a text of another dictionary became %q", got)
	}
	unknown, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(dictionaryID+1, changed))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := inflate(unknown.EncodeAll([]byte(want), nil)); err == nil {
		t.Errorf("a frame with an unknown dictionary became %q", got)
	}
}

func TestCompressedTextsOfAllFormatsAreRead(t *testing.T) {
	text := strings.Repeat(`{"turns":[{"action":"pull jade"}]}`, 40)
	var deflated bytes.Buffer
	w, err := stdflate.NewWriter(&deflated, stdflate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	numbers, err := deflate([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, stored := range map[string]any{
		"formats 1 and 2": text, "format 3": deflated.Bytes(), "numbers": numbers, "format 4": compressText([]byte(text)),
	} {
		if got, err := inflate(stored); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	short := compressText([]byte(text[:68]))
	if _, err := inflate(short[:len(short)-3]); err == nil {
		t.Error("a text that ends early was read")
	}
	if len(short) > 40 {
		t.Errorf("68 bytes, which the dictionary has, became %d", len(short))
	}
}

// A run of the third format goes on: its rows are read as they are, and new ones are
// written beside them.
func TestTheThirdFormatIsRead(t *testing.T) {
	f := func(spoil string, damaged bool) {
		t.Helper()
		ctx, dir := context.Background(), t.TempDir()
		writeFormat3(t, dir, spoil)
		r, err := Verify(ctx, dir)
		if err != nil || r.Damaged() != damaged {
			t.Errorf("before: %+v, %v", r, err)
		}
		l, err := Open(ctx, dir)
		if err != nil {
			t.Fatal(err)
		}
		e, err := l.Episodes(ctx, 1)
		if damaged {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("a damaged row: %v", err)
			}
			l.Close()
			return
		}
		if err != nil || len(e) != 1 || string(e[0].Trajectory) != `{"turns":[]}` || string(e[0].Tokens) != "\x01\x00" {
			t.Errorf("%+v, %v", e, err)
		}
		if plan, err := l.Plan(ctx, 1); err != nil || string(plan) != `{"step":1}` {
			t.Errorf("plan %s, %v", plan, err)
		}
		err = errors.Join(l.SavePlan(ctx, 2, json.RawMessage(`{"step":2}`)),
			l.AddEpisode(ctx, Episode{Step: 2, Trajectory: json.RawMessage(`{}`), Tokens: []byte{1}}),
			l.Commit(ctx, Step{Step: 2, Metrics: json.RawMessage(`{}`)}, nil, nil))
		if err != nil {
			t.Error(err)
		}
		if plan, err := l.Plan(ctx, 2); err != nil || string(plan) != `{"step":2}` {
			t.Errorf("plan %s, %v", plan, err)
		}
		l.Close()
		if r, err := Verify(ctx, dir); err != nil || r.Steps != 2 || r.Damaged() {
			t.Errorf("after: %+v, %v", r, err)
		}
	}
	f("", false)
	f("UPDATE episodes SET score = 3", true)
}

func writeFormat3(t *testing.T, dir, spoil string) {
	t.Helper()
	text, err := os.ReadFile("testdata/format3.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", dataSource(filepath.Join(dir, "run.db"), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	trajectory, err := deflate([]byte(`{"turns":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := deflate([]byte{1, 0})
	if err != nil {
		t.Fatal(err)
	}
	plan := `{"step":1}`
	values := []any{1, 0, 0, "task", "on_policy", 0, "terminated", 1.0, 100.0, true, "at", trajectory, tokens, []byte{}}
	content := earlierChecksum(earlierChecksum(1, plan), earlierChecksum(values...))
	for _, s := range []struct {
		query string
		args  []any
	}{
		{string(text), nil}, {"PRAGMA user_version = 3", nil},
		{"INSERT INTO plans VALUES(1, ?, ?)", []any{plan, earlierChecksum(1, plan)}},
		{tableNamed("episodes").insertion(""), append(plainValues(values), earlierChecksum(values...))},
		{"INSERT INTO steps VALUES(1, 0, 'at', '{}', ?, ?)",
			[]any{content, earlierChecksum(1, 0, "at", `{}`, content)}},
		{spoil, nil},
	} {
		if _, err := db.Exec(s.query, s.args...); err != nil {
			t.Fatalf("%s: %v", s.query, err)
		}
	}
}
