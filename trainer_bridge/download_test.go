package trainerbridge

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// archiveOf is a tar with one file of zeros.
func archiveOf(t *testing.T, name string, bytesOfFile int, zipped bool) []byte {
	t.Helper()
	var out bytes.Buffer
	var to io.WriteCloser = struct {
		io.Writer
		io.Closer
	}{&out, io.NopCloser(nil)}
	if zipped {
		to = gzip.NewWriter(&out)
	}
	archive := tar.NewWriter(to)
	header := tar.Header{Name: name, Mode: 0o644, Size: int64(bytesOfFile), Typeflag: tar.TypeReg}
	err := archive.WriteHeader(&header)
	_, err2 := archive.Write(make([]byte, bytesOfFile))
	if err := errors.Join(err, err2, archive.Close(), to.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestArchivesAreBoundedAfterDecompression(t *testing.T) {
	for _, zipped := range []bool{false, true} {
		archive := archiveOf(t, "adapter.safetensors", 1<<20, zipped)
		const exact = 1<<20 + 3*512 // the header of the file, and the end
		if err := untar(bytes.NewReader(archive), filepath.Join(t.TempDir(), "new"), exact); err != nil {
			t.Errorf("zipped %v: an archive as large as the bound: %v", zipped, err)
		}
		err := untar(bytes.NewReader(archive), filepath.Join(t.TempDir(), "new"), 1<<20)
		if err == nil || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
			t.Errorf("zipped %v: an archive beyond the bound: %v", zipped, err)
		}
	}
}

func TestACheckpointBeyondTheBoundIsNotPacked(t *testing.T) {
	dir := t.TempDir()
	text := `{"files": {"a": {"sha256": "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119", "bytes": 4}}}`
	err := errors.Join(os.WriteFile(filepath.Join(dir, manifest.Checkpoint), []byte(text), 0o600),
		os.WriteFile(filepath.Join(dir, "a"), make([]byte, 4), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pack(dir, 4); err != nil {
		t.Error(err)
	}
	if _, err := pack(dir, 3); err == nil || !strings.Contains(err.Error(), "larger than 3 bytes") {
		t.Errorf("a checkpoint of 4 bytes with a bound of 3: %v", err)
	}
}

// at is a client for a server that has only archives.
func at(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	to, err := newLink(server.URL, "token", 0, ClientConfig{}.Log, server.Client().Transport)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{link: to, cfg: ClientConfig{}.withDefaults(), transport: server.Client().Transport,
		turn: make(chan struct{}, 1), known: context.Background()}
	c.turn <- struct{}{}
	return c
}

func TestOnlyABrokenConnectionIsDownloadedAgain(t *testing.T) {
	good := archiveOf(t, "adapter.safetensors", 1000, true)
	f := func(name string, wantTries int, wantText string, answer http.HandlerFunc) {
		t.Helper()
		tries := 0
		c := at(t, func(w http.ResponseWriter, r *http.Request) { tries++; answer(w, r) })
		err := c.Download(t.Context(), "tinker://m/weights/v", filepath.Join(t.TempDir(), "new"))
		if err == nil || !strings.Contains(err.Error(), wantText) || tries != wantTries {
			t.Errorf("%s: %d tries: %v", name, tries, err)
		}
		if lost := strings.Contains(err.Error(), "connection was lost"); lost != (wantTries > 1) {
			t.Errorf("%s: %v", name, err)
		}
	}
	send := func(body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }
	}
	f("no archive", 1, "the archive", send([]byte("<html>no archive</html>")))
	f("damaged", 1, "the archive", send(append(good[:2:2], "damaged"...)))
	long := archiveOf(t, strings.Repeat("x", 300), 1, true)
	f("a file that cannot be made", 1, "file name too long", send(long))
	f("cut off", 5, "unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(good)))
		w.Write(good[:len(good)/2])
	})
}

func TestAFullDiskIsNamed(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("NOT TESTED: no /dev/full")
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	_, err = full.Write([]byte("x"))
	if got := fullDisk(err); !errors.Is(got, syscall.ENOSPC) || !strings.Contains(got.Error(), "hint: free space") {
		t.Errorf("%v", got)
	}
}

// An address of a storage is signed: who has it may read the checkpoint.
func TestSignedAddressesAreNotShown(t *testing.T) {
	f := func(location, want string) {
		t.Helper()
		c := at(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusFound)
		})
		place, _ := checkpointPlace("tinker://m/weights/v")
		err := c.download(t.Context(), place, filepath.Join(t.TempDir(), "new"))
		if err == nil || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", location, err)
		}
	}
	f("http://user:SECRET@127.0.0.1:1/bucket/SECRET?signature=SECRET", `"http://127.0.0.1:1"`)
	f("ftp://storage.example/SECRET?signature=SECRET", `"ftp://storage.example"`)
	f("http://storage.example/%zzSECRET", "redirects to an address that is none")
}

// A proxy in front speaks https and adds a prefix. The trainer knows neither.
func TestArchivesBehindAProxy(t *testing.T) {
	p, err := Start(t.Context(), realTrainer(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	target, err := url.Parse(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() }}
	front := httptest.NewTLSServer(http.StripPrefix("/team/trainer", proxy))
	t.Cleanup(front.Close)
	c, err := dial(t.Context(), ClientConfig{URL: front.URL + "/team/trainer", Token: p.Token(), Rank: 4, Alpha: 8},
		front.Client().Transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	path, err := c.SaveCheckpoint(t.Context(), "v000001-00000000")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if err := c.Download(t.Context(), path, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Verify(dir, manifest.Checkpoint); err != nil {
		t.Error(err)
	}
}

func TestThePasswordInAnAddressIsNotShown(t *testing.T) {
	const address = "http://user:SECRET@127.0.0.1:1"
	r := &Remote{Client: ClientConfig{URL: address, Rank: 4, Alpha: 8}}
	text := strings.Join(r.Describe(), "\n")
	if strings.Contains(text, "SECRET") || !strings.Contains(text, "127.0.0.1:1") {
		t.Error(text)
	}
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	at := strings.Replace(server.URL, "http://", "http://user:SECRET@", 1)
	_, err := Dial(t.Context(), ClientConfig{URL: at, Rank: 4, Alpha: 8})
	if err == nil || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), "dial trainer") {
		t.Errorf("%v", err)
	}
}
