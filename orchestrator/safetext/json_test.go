package safetext

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
)

func TestJSONErrorsNameNoTypesOfGo(t *testing.T) {
	type inner struct {
		Name string
		Yes  bool
	}
	type value struct {
		Text  string
		Size  int
		Small uint8
		Share *float64
		List  []inner
		Table map[string]int64
		At    time.Time
	}
	f := func(text, want string) {
		t.Helper()
		err := json.Unmarshal([]byte(text), new(value))
		plain := JSONError(err)
		if plain == nil || plain.Error() != want || !errors.Is(plain, err) {
			t.Errorf("%s: %v, want %s", text, plain, want)
		}
	}
	f(`3`, "the value must be an object, but it is a number")
	f(`[]`, "the value must be an object, but it is a list")
	f(`{"Text": 1}`, "Text must be a string, but it is a number")
	f(`{"Size": 1.5}`, "Size must be a whole number in range, but it is 1.5")
	f(`{"Small": 256}`, "Small must be a whole number in range, but it is 256")
	f(`{"Share": "x"}`, "Share must be a number, but it is a string")
	f(`{"Share": 1e999}`, "Share must be a number, but it is 1e999")
	f(`{"List": {}}`, "List must be a list, but it is an object")
	f(`{"List": [{"Yes": 1}]}`, "List.Yes must be true or false, but it is a number")
	f(`{"Table": true}`, "Table must be an object, but it is true or false")
	f(`{"At": "yesterday"}`, `"yesterday" is not a time such as 2026-12-31T23:59:59Z`)
	f(`{"Text": `, "unexpected end of JSON input")
	if err := JSONError(nil); err != nil {
		t.Error(err)
	}
}
