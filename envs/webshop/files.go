package webshop

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const remedy = "the product data may not be passed on with this program: fetch it with setup.sh of " +
	"github.com/princeton-nlp/WebShop (./setup.sh -d small, or -d all) and point env.webshop.data at its data folder"

// A dataFile is a known data file: its size in bytes and, if published, its SHA-256.
type dataFile struct {
	bytes  int64
	sha256 string
}

// knownFiles are the data sets of the original, by file name.
var knownFiles = map[string]dataFile{
	"items_shuffle_1000.json": {4_467_013, "30a4765c3a327af72d9a9a95a6b2486d516f0fa1d3ecd83681901ce82a21b269"},
	"items_ins_v2_1000.json":  {147_099, ""},
	"items_human_ins.json":    {5_137_548, ""},
	"items_shuffle.json":      {5_479_720_229, ""},
	"items_ins_v2.json":       {186_295_270, ""},
}

// A FileInfo identifies a data file in the record of a run.
type FileInfo struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	// Known is true for a file of the original's data sets. It is identified by
	// its checksum or, if none was published, by its size.
	Known bool `json:"known"`
}

// A source reads a data file once from start to end. It decompresses gzip and checks
// the size and the checksum.
type source struct {
	path   string
	file   *os.File
	size   int64
	packed bool
	sum    hash.Hash
	tee    io.Reader
	reader io.Reader
	ctx    context.Context
	known  dataFile // zero if the file need not be the original's
}

// openSource opens a data file. If it has the name of an original file, it must be
// that file, unless own is true.
func openSource(ctx context.Context, path string, own bool) (*source, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("webshop: no file %s\n  hint: %s", path, remedy)
	}
	if err != nil {
		return nil, fmt.Errorf("webshop: open data: %w", err)
	}
	s := &source{path: path, file: file, sum: sha256.New(), ctx: ctx}
	if !own {
		s.known = knownFiles[filepath.Base(path)]
	}
	if err := s.start(); err != nil {
		file.Close()
		return nil, err
	}
	return s, nil
}

func (s *source) start() error {
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("webshop: open data: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("webshop: %s is not a regular file\n  hint: %s", s.path, remedy)
	}
	s.size = info.Size()
	if want := s.known.bytes; want != 0 && want != s.size {
		return fmt.Errorf("webshop: %s has %d bytes, the original has %d: the download is broken or another file"+
			"\n  hint: fetch it again, or set env.webshop.own_data = true if it is your own catalogue",
			s.path, s.size, want)
	}
	s.tee = io.TeeReader(s, s.sum)
	buffered := bufio.NewReaderSize(s.tee, 1<<18)
	s.reader = buffered
	if magic, _ := buffered.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		if s.reader, err = gzip.NewReader(buffered); err != nil {
			return fmt.Errorf("webshop: unpack %s: %w", s.path, err)
		}
		s.packed = true
	}
	return nil
}

// Read reads the file. It fails after the context has ended.
func (s *source) Read(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	return s.file.Read(p)
}

// finish reads the rest of the file, compares the checksum with the known one and with
// pinned (hexadecimal; empty: not pinned), and closes the file.
func (s *source) finish(pinned string) (FileInfo, error) {
	defer s.file.Close()
	if _, err := io.Copy(io.Discard, s.reader); err != nil {
		return FileInfo{}, fmt.Errorf("webshop: read %s: %w", s.path, err)
	}
	if _, err := io.Copy(io.Discard, s.tee); err != nil {
		return FileInfo{}, fmt.Errorf("webshop: read %s: %w", s.path, err)
	}
	info := FileInfo{Path: s.path, Bytes: s.size, SHA256: hex.EncodeToString(s.sum.Sum(nil))}
	info.Known = s.known != dataFile{}
	for _, want := range []string{s.known.sha256, pinned} {
		if want != "" && want != info.SHA256 {
			return info, fmt.Errorf("webshop: %s has the sha256 %s, want %s\n  hint: fetch the file again, "+
				"or set env.webshop.own_data = true and correct the pinned checksum if it is your own catalogue",
				s.path, info.SHA256, want)
		}
	}
	return info, nil
}
