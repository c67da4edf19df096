package page

import (
	"io/fs"
	"net/http"
	"path"
)

// assetHandler serves the files of the browser's side by their exact paths.
type assetHandler map[string][]byte

func newAssets(files fs.FS) assetHandler {
	out := assetHandler{}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) == ".LICENSE" {
			return err
		}
		text, err := fs.ReadFile(files, name)
		out["/"+name] = text
		return err
	})
	if err != nil {
		panic(err) // the files are embedded
	}
	return out
}

// contentTypes are the types of the files, whatever the machine says.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

// ServeHTTP implements [http.Handler].
func (a assetHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path
	if name == "/" {
		name = "/index.html"
	}
	text, ok := a[name]
	kind := contentTypes[path.Ext(name)]
	if !ok || kind == "" {
		writeError(w, errNotFound)
		return
	}
	w.Header().Set("Content-Type", kind)
	writeBody(w, r, text)
}
