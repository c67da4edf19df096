package inspect

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// writeFiles writes files into a folder.
func writeFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// An accepted model has sizes that can be multiplied. A refused folder gets an error
// with a hint and without names of Go's types.
func FuzzFolder(f *testing.F) {
	const config = `{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}`
	weights := string(safetensorsFile(`{"a": {"shape": [2, 2], "data_offsets": [0, 16]}}`, 16))
	f.Add([]byte(config), []byte(`{"chat_template": "x"}`), []byte(`{"weight_map": {"a": "m.safetensors"}}`),
		[]byte(weights))
	f.Add([]byte(`{"model_type": "x", "text_config": {"hidden_size": 1e9, "head_dim": 1e9}}`), []byte("[]"),
		[]byte(`{"weight_map": {"a": "../../etc/passwd"}}`), []byte(""))
	f.Add([]byte(`{"model_type": 3}`), []byte(`{"chat_template": [{"name": "default"}]}`), []byte("{}"), []byte("x"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, config, tokenizer, index, weights []byte) {
		writeFiles(t, dir, map[string][]byte{"config.json": config, "tokenizer.json": []byte("{}"),
			"tokenizer_config.json": tokenizer, weightsIndex: index, "m.safetensors": weights})
		m, err := Folder(dir)
		if err != nil {
			if text := err.Error(); !strings.Contains(text, "\n  hint: ") || strings.Contains(text, "Go struct") ||
				strings.Contains(text, "Go value") || strings.Contains(text, "%!") {
				t.Fatalf("%q", err)
			}
			return
		}
		if m.Parameters < 0 || m.CacheValues < 0 || m.Shape.Hidden < 0 || m.Context < 0 {
			t.Fatalf("%+v", m)
		}
	})
}

// safetensorsFile is a file with a header and n bytes of data.
func safetensorsFile(header string, n int) []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), make([]byte, n)...)
}

// The reader allocates about as much memory as the file is large, and counts no
// more values than the file can hold.
func FuzzSafetensors(f *testing.F) {
	f.Add(safetensorsFile(`{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {}}`, 16))
	f.Add(safetensorsFile(`{"a": {"shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}`, 0))
	f.Add(safetensorsFile(`{"a": {"shape": [-1], "data_offsets": [-9, 9223372036854775807]}}`, 0))
	f.Add([]byte{0, 0, 0, 5, 0, 0, 0, 0, '{'})
	m := Model{Path: f.TempDir()}
	f.Fuzz(func(t *testing.T, text []byte) {
		writeFiles(t, m.Path, map[string][]byte{oneFile: text})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		n, err := m.countSafetensors(oneFile, map[string]string{})
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(4<<20+64*len(text)) {
			t.Fatalf("a file of %d bytes takes %d bytes of memory", len(text), used)
		}
		if err == nil && (n < 0 || n > 8*int64(len(text))) {
			t.Fatalf("%d values in %d bytes", n, len(text))
		}
		if err != nil && !strings.Contains(err.Error(), "\n  hint: ") {
			t.Fatalf("%q has no hint", err)
		}
	})
}
