package page

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
)

var (
	styleLink  = regexp.MustCompile(`<link rel="stylesheet" href="([^"]+)">`)
	scriptLink = regexp.MustCompile(`<script src="([^"]+)"></script>`)
)

// exportFile writes the page, made of the browser's files, as one file that needs no server
// and no network. answers maps paths of the API to their answers; the page shows nothing
// else. The file allows only its own scripts and styles, by their checksums.
func exportFile(w io.Writer, files fs.FS, answers map[string]json.RawMessage) error {
	index, err := fs.ReadFile(files, "index.html")
	if err != nil {
		return err
	}
	stored, err := json.Marshal(answers) // escapes <, so that no text ends the element
	if err != nil {
		return fmt.Errorf("the answers of the exported page: %w", err)
	}
	in := inliner{files: files, sums: map[string][]string{}}
	text := in.inline(string(index), styleLink, "style")
	text = in.inline(text, scriptLink, "script")
	if in.err != nil {
		return fmt.Errorf("the exported page: %w", in.err)
	}
	head := fmt.Sprintf(`<head>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; script-src %s; style-src %s">`,
		strings.Join(in.sums["script"], " "), strings.Join(in.sums["style"], " "))
	text = strings.Replace(text, "<head>", head, 1)
	before, after, _ := strings.Cut(text, `<div id="page">`)
	for _, part := range []string{before, `<script type="application/json" id="answers">`, string(stored),
		"</script>\n<div id=\"page\">", after} {
		if _, err := io.WriteString(w, part); err != nil {
			return err
		}
	}
	return nil
}

// inliner puts files in the place of links to them.
type inliner struct {
	files fs.FS
	sums  map[string][]string // the policy's sources, by element
	err   error
}

func (in *inliner) inline(page string, link *regexp.Regexp, element string) string {
	return link.ReplaceAllStringFunc(page, func(found string) string {
		name := link.FindStringSubmatch(found)[1]
		content, err := fs.ReadFile(in.files, name)
		switch {
		case err != nil:
			in.err = err
			return ""
		case bytes.Contains(content, []byte("</"+element)):
			in.err = fmt.Errorf("%s contains </%s, so it cannot be a part", name, element)
			return ""
		}
		sum := sha256.Sum256(content)
		in.sums[element] = append(in.sums[element], "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
		return "<" + element + ">" + string(content) + "</" + element + ">"
	})
}
