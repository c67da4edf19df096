package scienceworld

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The py4j protocol is text. A command is a few lines and a final "e"; a
// reply is one line. Line breaks inside of strings are escaped, which is also
// what keeps a policy's action from becoming a command of its own.

// An objectID names an object that the gateway holds for us, such as "o12".
type objectID string

// class marks a target as static: the methods of a class, not of an object.
func class(name string) objectID { return objectID("z:" + name) }

// callCommand invokes a method. An argument is a string, int, bool, objectID
// or nil; Java picks the overload by exactly these types.
func callCommand(target objectID, method string, args ...any) string {
	var b strings.Builder
	b.WriteString("c\n" + string(target) + "\n" + method + "\n")
	writeArguments(&b, args)
	return b.String()
}

// newCommand constructs an object of a fully qualified class.
func newCommand(class string, args ...any) string {
	var b strings.Builder
	b.WriteString("i\n" + class + "\n")
	writeArguments(&b, args)
	return b.String()
}

// newArrayCommand makes an array of n elements of a class.
func newArrayCommand(class string, n int) string {
	return "a\nc\ns" + class + "\ni" + strconv.Itoa(n) + "\ne\n"
}

// setArrayCommand stores an object in an array.
func setArrayCommand(array objectID, i int, value objectID) string {
	return "a\ns\n" + string(array) + "\ni" + strconv.Itoa(i) + "\nr" + string(value) + "\ne\n"
}

// freeCommand drops the gateway's reference to an object.
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
			panic(fmt.Sprintf("py4j: argument of type %T", a)) // a mistake in this package
		}
		b.WriteByte('\n')
	}
	b.WriteString("e\n")
}

var escaper = strings.NewReplacer(`\`, `\\`, "\r", `\r`, "\n", `\n`)

// escape makes s one line of valid UTF-8.
func escape(s string) string { return escaper.Replace(strings.ToValidUTF8(s, "\uFFFD")) }

// unescape is the inverse of escape. A lone backslash stands for itself.
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

// A javaError is an exception on the Java side: the call failed, the
// connection is intact.
type javaError struct {
	Exception objectID // the thrown object, or "" if the gateway itself refused
	Message   string   // the gateway's stack trace, where there is no object
}

func (e *javaError) Error() string {
	if e.Exception != "" {
		return "java exception " + string(e.Exception)
	}
	first, _, _ := strings.Cut(e.Message, "\n")
	return "py4j: " + first
}

// parseReply decodes one line, without its line break. The value is a string,
// int, float64, bool, []byte, objectID or nil. A *javaError is the call's
// failure; any other error means that the peer does not speak py4j.
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
