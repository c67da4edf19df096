package safetext

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// JSONError returns an error of encoding/json with a text for users: it names the key
// and the kinds of JSON values, but no types of Go. errors.As and errors.Is still find
// err. Other errors are returned unchanged.
func JSONError(err error) error {
	var wrong *json.UnmarshalTypeError
	var noTime *time.ParseError
	switch {
	case errors.As(err, &wrong):
		value, number, _ := strings.Cut(wrong.Value, " ") // "number 1.5"
		is := jsonKinds[value]
		if number != "" {
			is = number
		}
		key := wrong.Field
		if key == "" {
			key = "the value"
		}
		return &plainError{fmt.Sprintf("%s must be %s, but it is %s", key, kindOf(wrong.Type), is), err}
	case errors.As(err, &noTime):
		return &plainError{fmt.Sprintf("%q is not a time such as 2026-12-31T23:59:59Z", strings.Trim(noTime.Value, `"`)), err}
	}
	return err
}

// plainError has another text than the error that it wraps.
type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// jsonKinds are the kinds of values as encoding/json names them.
var jsonKinds = map[string]string{
	"array": "a list", "object": "an object", "string": "a string", "number": "a number", "bool": "true or false",
}

// kindOf is the kind of JSON value that a type of Go is read from.
func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a whole number in range"
}
