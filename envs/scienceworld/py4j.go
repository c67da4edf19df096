package scienceworld

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The py4j protocol is text. A command is several lines and a final "e". A reply is
// one line. Line breaks in strings are escaped, so an action of the policy cannot
// become a command.

// An objectID is the name of an object on the gateway, such as "o12".
type objectID string

// class is the target of static methods of a class.
func class(name string) objectID { return objectID("z:" + name) }

// callCommand calls a method. An argument is a string, int, bool, objectID or nil.
// Java chooses the overload by these types.
func callCommand(target objectID, method string, args ...any) string {
	var b strings.Builder
	b.WriteString("c\n" + string(target) + "\n" + method + "\n")
	writeArguments(&b, args)
	return b.String()
}

// newCommand creates an object of a class, given by its full name.
func newCommand(class string, args ...any) string {
	var b strings.Builder
	b.WriteString("i\n" + class + "\n")
	writeArguments(&b, args)
	return b.String()
}

// newArrayCommand creates an array of n elements of a class.
func newArrayCommand(class string, n int) string {
	return "a\nc\ns" + class + "\ni" + strconv.Itoa(n) + "\ne\n"
}

// setArrayCommand stores an object in an array.
func setArrayCommand(array objectID, i int, value objectID) string {
	return "a\ns\n" + string(array) + "\ni" + strconv.Itoa(i) + "\nr" + string(value) + "\ne\n"
}

// freeCommand deletes the gateway's reference to an object.
func freeCommand(id objectID) string { return "m\nd\n" + string(id) + "\ne\n" }

func writeArguments(b *strings.Builder, args []any) {
	for _, a := range args {
		switch a := a.(type) {
		case nil:
			b.WriteByte('n')
		case string:
			b.WriteByte('s')
			b.WriteString(escape(a))
		case int:
			b.WriteByte('i')
			b.WriteString(strconv.Itoa(a))
		case bool:
			b.WriteByte('b')
			b.WriteString(map[bool]string{true: "True", false: "False"}[a])
		case objectID:
			b.WriteByte('r')
			b.WriteString(string(a))
		default:
			panic(fmt.Sprintf("py4j: argument of type %T", a)) // an error in this package
		}
		b.WriteByte('\n')
	}
	b.WriteString("e\n")
}

var escaper = strings.NewReplacer(`\`, `\\`, "\r", `\r`, "\n", `\n`)

// escape turns s into one line of valid UTF-8.
func escape(s string) string { return escaper.Replace(strings.ToValidUTF8(s, "\uFFFD")) }

// unescape is the inverse of escape. It keeps a backslash that escapes nothing.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case '\\':
			b.WriteByte('\\')
		default:
			b.WriteByte('\\')
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// A javaError is an exception in Java. The call has failed, but the connection is
// usable.
type javaError struct {
	Exception objectID // the exception, or "" if the gateway itself refused the call
	Message   string   // the gateway's stack trace, if there is no Exception
}

func (e *javaError) Error() string {
	if e.Exception != "" {
		return "java exception " + string(e.Exception)
	}
	first, _, _ := strings.Cut(e.Message, "\n")
	return "py4j: " + first
}

// parseReply decodes a line, without its line break. The value is a string, int,
// float64, bool, []byte, objectID or nil. A *javaError means that the call has failed.
// Any other error means that the server does not speak py4j.
func parseReply(line string) (any, error) {
	if len(line) < 2 || line[0] != '!' || line[1] != 'y' && line[1] != 'x' {
		return nil, fmt.Errorf("not a py4j reply: %s", shorten(line))
	}
	if line[1] == 'x' {
		return nil, parseException(line[2:])
	}
	if len(line) == 2 {
		return nil, nil
	}
	value, err := parseValue(line[2], line[3:])
	if err != nil {
		return nil, fmt.Errorf("py4j reply %s: %w", shorten(line), err)
	}
	return value, nil
}

func parseException(s string) error {
	switch {
	case strings.HasPrefix(s, "r") && len(s) > 1:
		return &javaError{Exception: objectID(s[1:])}
	case strings.HasPrefix(s, "s"):
		return &javaError{Message: unescape(s[1:])}
	}
	return &javaError{Message: s}
}

func parseValue(kind byte, s string) (any, error) {
	switch kind {
	case 's':
		return unescape(s), nil
	case 'i', 'L':
		return strconv.Atoi(s)
	case 'd', 'D':
		f, err := strconv.ParseFloat(s, 64)
		if err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
			err = fmt.Errorf("not a finite number")
		}
		return f, err
	case 'b':
		return strconv.ParseBool(s)
	case 'j':
		return base64.StdEncoding.DecodeString(s)
	case 'n', 'v', 'o':
		return nil, nil
	case 'r', 'l', 'a', 'h', 't', 'g':
		if s == "" {
			return nil, fmt.Errorf("object without a name")
		}
		return objectID(s), nil
	}
	return nil, fmt.Errorf("unknown type %q", kind)
}

func shorten(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
