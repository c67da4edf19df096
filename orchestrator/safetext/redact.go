package safetext

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

const (
	// Mark replaces a secret.
	Mark = "[key]"
	// minSecret is the length of the shortest secret that is replaced, in bytes. Shorter
	// ones occur in ordinary words.
	minSecret = 4
	// minInContent is the same for contents. A short key, such as "EMPTY", is often a
	// word of the content.
	minInContent = 6
)

// A Redactor replaces secrets in texts. A secret may be encoded as JSON, as a part of
// a URL, as HTML or in base64. The zero value has no secrets. It is safe for concurrent
// use.
type Redactor struct{ forms, content [][]byte }

// NewRedactor returns a Redactor for secrets. Secrets below four bytes are ignored.
func NewRedactor(secrets ...string) Redactor {
	var r Redactor
	for _, secret := range secrets {
		if len(secret) < minSecret {
			continue
		}
		forms := formsOf(secret)
		r.forms = append(r.forms, forms...)
		if len(secret) >= minInContent && strings.Trim(secret, "0123456789") != "" {
			r.content = append(r.content, forms...)
		}
	}
	longestFirst := func(a, b []byte) int { return len(b) - len(a) }
	slices.SortStableFunc(r.forms, longestFirst)
	slices.SortStableFunc(r.content, longestFirst)
	return r
}

// Text replaces the secrets in a text about an exchange, for example an error.
func (r Redactor) Text(text string) string {
	for _, form := range r.forms {
		text = strings.ReplaceAll(text, string(form), Mark)
	}
	return text
}

// Content replaces the secrets in content, for example an observation or an
// answer. Secrets that are short or a number are left in it.
func (r Redactor) Content(content []byte) []byte {
	for _, form := range r.content {
		if bytes.Contains(content, form) {
			content = bytes.ReplaceAll(content, form, []byte(Mark))
		}
	}
	return content
}

// formsOf returns a secret and its encoded forms, without duplicates.
func formsOf(secret string) (forms [][]byte) {
	quoted := jsonText(secret, false)
	plain := []string{secret, quoted, strings.ReplaceAll(quoted, "/", `\/`), jsonText(secret, true),
		html.EscapeString(secret), base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.URLEncoding.EncodeToString([]byte(secret))}
	for _, escaped := range []string{url.QueryEscape(secret), url.PathEscape(secret)} {
		plain = append(plain, escaped, hexDigits.ReplaceAllStringFunc(escaped, strings.ToLower))
	}
	for _, form := range plain {
		form = strings.TrimRight(form, "=") // padding of base64 may be left out
		if len(form) >= minSecret && !slices.ContainsFunc(forms, func(f []byte) bool { return string(f) == form }) {
			forms = append(forms, []byte(form))
		}
	}
	return forms
}

var hexDigits = regexp.MustCompile(`%[0-9A-F]{2}`)

// jsonText returns the inside of a JSON string. With forHTML, <, > and & are escaped too.
func jsonText(s string, forHTML bool) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(forHTML)
	if encoder.Encode(s) != nil {
		return s
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(b.String()), `"`), `"`)
}

// UserSecrets returns what must not be shown of a URL with a user: the password, or
// the user if there is no password, and the header that they are sent in.
func UserSecrets(u *url.URL) []string {
	if u.User == nil {
		return nil
	}
	name := u.User.Username()
	password, has := u.User.Password()
	secrets := []string{base64.StdEncoding.EncodeToString([]byte(name + ":" + password))}
	if has && password != "" {
		return append(secrets, password)
	}
	return append(secrets, name)
}

// URL returns a URL without its user and password, for errors, logs and events. The
// text may be no valid URL.
func URL(text string) string {
	u, err := url.Parse(text)
	if err == nil && u.User != nil {
		u.User = nil
		return u.String()
	}
	if err == nil && u.Host != "" {
		return text
	}
	return userInfo.ReplaceAllString(text, Mark+"@")
}

// userInfo matches everything that may be a user and a password in a text that is no
// valid URL.
var userInfo = regexp.MustCompile(`[^/\s"]*(:[^\s"]*)?@`)
