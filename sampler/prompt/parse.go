package prompt

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/BurntSushi/toml"

	"github.com/empo2/empo2/sampler/chat"
)

//go:embed templates
var promptFiles embed.FS

// Names returns the names of the built-in templates in alphabetical order.
func Names() []string {
	entries, err := fs.ReadDir(promptFiles, "templates")
	if err != nil {
		panic(err) // the folder is embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".tmpl"))
	}
	return names
}

// Source returns the text of a built-in template.
func Source(name string) (string, error) {
	text, err := promptFiles.ReadFile("templates/" + name + ".tmpl")
	if err != nil {
		return "", fmt.Errorf("no prompt template %q\n  hint: name one of %s, or the path of a file",
			name, strings.Join(Names(), ", "))
	}
	return string(text), nil
}

// The fields of the blocks. Each block has its own type, so that only the block "tips" can render tips.
type (
	systemFields     struct{ Instruction string }
	feedbackFields   struct{ Feedback string }
	tipsFields       struct{ Tips []string }
	stateFields      struct{ State string }
	reflectionFields struct{ Request string }
)

// blocks are the blocks that a template must have. Parse executes each one with empty and with filled fields.
var blocks = []struct {
	kind          chat.SpanKind
	empty, filled any
	fields        string
}{
	{chat.SystemSpan, systemFields{}, systemFields{"x"}, ".Instruction"},
	{chat.FeedbackSpan, feedbackFields{}, feedbackFields{"x"}, ".Feedback"},
	{chat.TipsSpan, tipsFields{}, tipsFields{[]string{"x", "y"}}, ".Tips"},
	{chat.StateSpan, stateFields{}, stateFields{"x"}, ".State"},
	{chat.ReflectionSpan, reflectionFields{}, reflectionFields{"x"}, ".Request"},
}

const optionsBlock = "options"

// functions may be called in a template. They never fail on patterns that checkCommand accepted.
var functions = template.FuncMap{"lower": strings.ToLower, "trim": strings.TrimSpace, "find": find}

// builtin are the functions of text/template that a template may call: those that never fail.
var builtin = []string{"and", "or", "not", "print"}

// Parse reads a prompt template: a text/template file with one block per span of a prompt and a block "options" in
// TOML. The comments in the built-in template "plain" describe the format. The error of a faulty file names the place
// and has a hint.
func Parse(name, text string) (Template, error) {
	fail := func(err error, hint string) (Template, error) {
		return Template{}, fmt.Errorf("prompt template %s: %w\n  hint: %s", name, err, hint)
	}
	const start = "empo2 prompt --write DIR writes the built-in templates; edit one of them"
	t, err := template.New(name).Funcs(functions).Parse(text)
	if err != nil {
		return fail(err, start)
	}
	f := Template{name: name, text: text, blocks: t}
	if unknown := unknownBlock(t); unknown != "" {
		return fail(fmt.Errorf("unknown block %q", unknown),
			"the blocks are options, system, feedback, tips, state and reflection")
	}
	for _, b := range blocks {
		block := t.Lookup(string(b.kind))
		if block == nil {
			return fail(fmt.Errorf("no block %q", b.kind), start)
		}
		if err := checkCalls(block.Root); err != nil {
			return fail(fmt.Errorf("block %q: %w", b.kind, err),
				fmt.Sprintf("a block may use its field %s, if, with, range, else, and the functions lower, trim, find, %s",
					b.fields, strings.Join(builtin, ", ")))
		}
		for _, fields := range []any{b.empty, b.filled} {
			if err := block.Execute(io.Discard, fields); err != nil {
				return fail(err, fmt.Sprintf("the block %q may only use the field %s", b.kind, b.fields))
			}
		}
	}
	if err := f.readOptions(); err != nil {
		return fail(fmt.Errorf("block %q: %w", optionsBlock, err),
			"the built-in template \"plain\" explains every option")
	}
	return f, nil
}

// unknownBlock returns the name of a block that is not part of a prompt, or "".
func unknownBlock(t *template.Template) string {
	for _, defined := range t.Templates() {
		known := defined.Name() == t.Name() || defined.Name() == optionsBlock
		for _, b := range blocks {
			known = known || defined.Name() == string(b.kind)
		}
		if !known {
			return defined.Name()
		}
	}
	return ""
}

// options are the keys of the block "options".
type options struct {
	Order         []chat.SpanKind `toml:"order"`
	ShowState     string          `toml:"show_state"`
	Action        actionRule      `toml:"action"`
	Lower         bool            `toml:"lower"`
	MaxTips       int             `toml:"max_tips"`
	MaxCharacters int             `toml:"max_tip_characters"`
}

// defaultOptions are those of the template "plain".
func defaultOptions() options {
	return options{
		Order:     []chat.SpanKind{chat.FeedbackSpan, chat.TipsSpan, chat.StateSpan},
		ShowState: "always", Action: wholeReply, MaxCharacters: 600,
	}
}

// check returns an error if a value is not allowed.
func (o options) check() error {
	sorted := slices.Sorted(slices.Values(o.Order))
	switch {
	case !slices.Equal(sorted, []chat.SpanKind{chat.FeedbackSpan, chat.StateSpan, chat.TipsSpan}):
		return fmt.Errorf("order = %q must name feedback, tips and state once each", o.Order)
	case o.ShowState != "always" && o.ShowState != "first":
		return fmt.Errorf("show_state = %q is neither always nor first", o.ShowState)
	case !slices.Contains(actionRules, o.Action):
		return fmt.Errorf("action = %q is none of %q", o.Action, actionRules)
	case o.MaxTips < 0 || o.MaxCharacters < 0:
		return errors.New("max_tips and max_tip_characters must not be negative")
	}
	return nil
}

// readOptions reads the block "options". Missing keys have their defaults.
func (f *Template) readOptions() error {
	o := defaultOptions()
	var text strings.Builder
	if block := f.blocks.Lookup(optionsBlock); block != nil {
		if err := checkCalls(block.Root); err != nil {
			return err
		}
		if err := block.Execute(&text, nil); err != nil {
			return err
		}
	}
	meta, err := toml.Decode(text.String(), &o)
	if err != nil {
		return err
	}
	if extra := meta.Undecoded(); len(extra) > 0 {
		return fmt.Errorf("unknown option %q", extra[0].String())
	}
	if err := o.check(); err != nil {
		return err
	}
	f.order, f.stateOnlyFirst, f.rule, f.lower = o.Order, o.ShowState == "first", o.Action, o.Lower
	f.MaxTipsPerTurn, f.MaxTipCharacters = o.MaxTips, o.MaxCharacters
	return nil
}

// checkCalls returns an error if a block calls something that could fail during a run, or has an invalid pattern.
func checkCalls(node parse.Node) (err error) {
	walkNodes(node, func(n parse.Node) {
		if err != nil {
			return
		}
		switch n := n.(type) {
		case *parse.TemplateNode:
			err = fmt.Errorf("{{template %q}} is not supported", n.Name)
		case *parse.CommandNode:
			err = checkCommand(n)
		default:
			err = checkNumbers(n)
		}
	})
	return err
}

// checkNumbers refuses a number that a loop could count to: {{range 1000000000}} would not end. Numbers may only be
// compared.
func checkNumbers(node parse.Node) (err error) {
	refuse := func(pipe *parse.PipeNode) {
		walkNodes(pipe, func(n parse.Node) {
			if number, ok := n.(*parse.NumberNode); ok && err == nil {
				err = fmt.Errorf("the number %s is not supported in {{range}}, {{with}} or a variable", number.Text)
			}
		})
	}
	switch n := node.(type) {
	case *parse.RangeNode:
		refuse(n.Pipe)
	case *parse.WithNode:
		refuse(n.Pipe)
	case *parse.PipeNode:
		if len(n.Decl) > 0 {
			refuse(n)
		}
	}
	return err
}

func checkCommand(n *parse.CommandNode) error {
	called, ok := n.Args[0].(*parse.IdentifierNode)
	if !ok {
		return nil
	}
	if _, own := functions[called.Ident]; !own && !slices.Contains(builtin, called.Ident) {
		return fmt.Errorf("the function %q is not supported", called.Ident)
	}
	if called.Ident != "find" {
		return nil
	}
	pattern, ok := n.Args[min(1, len(n.Args)-1)].(*parse.StringNode)
	if !ok {
		return errors.New("the first argument of find must be a pattern in quotes")
	}
	_, err := regexp.Compile(pattern.Text)
	return err
}

// walkNodes visits node and all of its descendants.
func walkNodes(node parse.Node, visit func(parse.Node)) {
	visit(node)
	branch := func(pipe *parse.PipeNode, list, other *parse.ListNode) {
		walkNodes(pipe, visit)
		walkNodes(list, visit)
		if other != nil {
			walkNodes(other, visit)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			walkNodes(child, visit)
		}
	case *parse.ActionNode:
		walkNodes(n.Pipe, visit)
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			walkNodes(command, visit)
		}
	case *parse.CommandNode:
		for _, argument := range n.Args {
			walkNodes(argument, visit)
		}
	case *parse.IfNode:
		branch(n.Pipe, n.List, n.ElseList)
	case *parse.RangeNode:
		branch(n.Pipe, n.List, n.ElseList)
	case *parse.WithNode:
		branch(n.Pipe, n.List, n.ElseList)
	}
}

// find lists the matches of a pattern's first group in a text, without repetitions. Without a group it lists the
// matches of the whole pattern.
func find(pattern, text string) ([]string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, match := range re.FindAllStringSubmatch(text, -1) {
		if s := match[min(1, len(match)-1)]; s != "" && !slices.Contains(found, s) {
			found = append(found, s)
		}
	}
	return found, nil
}
