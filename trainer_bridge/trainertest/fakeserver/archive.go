package fakeserver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// isFile reports whether a request is about an archive, whose body is not JSON.
func isFile(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/training_runs/") || strings.HasSuffix(r.URL.Path, "/upload_checkpoint")
}

// files answers the requests about archives. As in the protocol, an archive is where the answer redirects to.
func (s *Server) files(w http.ResponseWriter, r *http.Request, body []byte) {
	if strings.HasSuffix(r.URL.Path, "/upload_checkpoint") {
		s.upload(w, r, body)
		return
	}
	_, rest, _ := strings.Cut(r.URL.Path, "/checkpoints/")
	place, op, _ := strings.Cut(rest, "/archive")
	if at, ok := strings.CutSuffix(rest, "/download"); ok {
		place, op = at, "download"
	}
	kind, name, ok := strings.Cut(place, "/")
	if !ok { // SkyRL has archives of exports only
		kind, name = "sampler_weights", kind
	}
	folder := map[string]string{"weights": "checkpoints", "sampler_weights": "adapters"}[kind]
	dir := filepath.Join(s.Root, folder, filepath.Base(name))
	switch _, err := os.Stat(dir); {
	case err != nil || folder == "":
		fail(w, http.StatusNotFound, "Checkpoint not found: "+place)
	case r.Method == http.MethodDelete:
		os.RemoveAll(dir)
		w.WriteHeader(http.StatusNoContent)
	case op == "download":
		w.Write(archive(dir, s.opts.SkyRL))
	default:
		w.Header().Set("Location", "download") // relative, as the real one's
		w.WriteHeader(http.StatusFound)
	}
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request, body []byte) {
	name := filepath.Base(r.URL.Query().Get("name"))
	dir := filepath.Join(s.Root, "checkpoints", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	for from := tar.NewReader(bytes.NewReader(body)); ; {
		entry, err := from.Next()
		if err == io.EOF {
			break
		}
		content, readErr := io.ReadAll(from)
		if err != nil || readErr != nil {
			fail(w, http.StatusBadRequest, "not an archive")
			return
		}
		os.WriteFile(filepath.Join(dir, filepath.Base(entry.Name)), content, 0o644)
	}
	reply(w, http.StatusOK, map[string]string{"path": "tinker://uploaded/weights/" + name})
}

// archive packs a folder. SkyRL compresses, has no manifest, and lists no modules.
func archive(dir string, skyRL bool) []byte {
	var out bytes.Buffer
	var to io.WriteCloser = nopCloser{&out}
	if skyRL {
		to = gzip.NewWriter(&out)
	}
	packed := tar.NewWriter(to)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		content, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		if skyRL && e.Name() == "manifest.json" {
			continue
		}
		if skyRL && e.Name() == "adapter_config.json" {
			content = skyRLConfig(content)
		}
		packed.WriteHeader(&tar.Header{Name: e.Name(), Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
		packed.Write(content)
	}
	packed.Close()
	to.Close()
	return out.Bytes()
}

// skyRLConfig is an adapter_config.json as SkyRL writes it.
func skyRLConfig(text []byte) []byte {
	var config map[string]any
	json.Unmarshal(text, &config)
	config["target_modules"], config["lora_alpha"] = nil, 32
	out, _ := json.Marshal(config)
	return out
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
