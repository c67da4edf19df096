package page

import (
	"net"
	"net/http"
	"net/url"
)

// policy is what a browser may load for the page: its own files, and nothing from
// elsewhere. Scripts and styles within HTML are not run.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guard sets the headers of every answer, and refuses requests that another site may
// have sent: those with a name of a host that is not this machine (a name of another
// site can be made to resolve to it), those of another origin, and changes without
// the header that only a script of the page can set.
func guard(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	if !isLoopback(r.Host) {
		return &answerError{http.StatusForbidden, "the page is not for the host " + quoted(r.Host),
			"open it as http://127.0.0.1 or http://localhost with its port"}
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return &answerError{http.StatusForbidden, "the page does not answer to the origin " + quoted(origin), ""}
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" && r.URL.Path != "/" {
		return &answerError{http.StatusForbidden, "the page does not answer to other sites", ""}
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		if r.Header.Get("X-Empo2") != "page" {
			return &answerError{http.StatusForbidden, "a change needs the header X-Empo2: page", ""}
		}
	default:
		return &answerError{http.StatusMethodNotAllowed, "the page answers to GET and POST", ""}
	}
	return nil
}

// isLoopback reports whether the name of a host, with or without a port, is one of
// this machine.
func isLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if len(name) > 2 && name[0] == '[' && name[len(name)-1] == ']' {
		name = name[1 : len(name)-1]
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}
