package webshop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every error says what is wrong and how to correct it.
func TestBadInput(t *testing.T) {
	f := func(change func(c *Config, dir string), want ...string) {
		t.Helper()
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "shop"))); err != nil {
			t.Fatal(err)
		}
		c := shopConfig()
		c.DataDir = dir
		change(&c, dir)
		family, err := Open(t.Context(), c)
		if err == nil {
			family.Close()
			t.Errorf("opened, want an error with %q", want)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q lacks %q", err, w)
			}
		}
	}
	write := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	item := func(fields string) string {
		return `[{"asin":"A","name":"n","full_description":"d","small_description":[],"product_category":"c","query":"q",` +
			`"category":"c","customization_options":""` + fields + `}]`
	}
	f(func(c *Config, dir string) { c.Items = "" }, "items_shuffle_1000.json", "setup.sh", "env.webshop.data")
	f(func(c *Config, dir string) { c.Items = "." }, "not a regular file")
	f(func(c *Config, dir string) { c.Attributes = "none.json" }, "none.json", "setup.sh")
	f(func(c *Config, dir string) { c.Goals, c.Instructions = Human, "none.json" }, "none.json", "setup.sh")
	f(func(c *Config, dir string) { c.OwnData = false }, "items_ins_v2.json", "has 2763 bytes", "186295270", "own_data")
	f(func(c *Config, dir string) { c.Checksums = map[string]string{"items.json": strings.Repeat("0", 64)} },
		"items.json has the sha256", "pinned checksum")
	f(func(c *Config, dir string) { write(dir, "items.json", "{}") }, "items.json", "the file begins with {")
	f(func(c *Config, dir string) { write(dir, "items.json", "") }, "items.json", "EOF")
	f(func(c *Config, dir string) { write(dir, "items.json", "[]") }, "no products")
	f(func(c *Config, dir string) { write(dir, "items.json", item("")[:90]) }, "items.json", "item 0")
	f(func(c *Config, dir string) { write(dir, "items.json", item(`,"pricing":"cheap"`)) },
		"item A", `"cheap"`, "dollars")
	f(func(c *Config, dir string) { write(dir, "items.json", item(`,"pricing":"$1.2.3"`)) }, "item A", "1.2.3")
	f(func(c *Config, dir string) { write(dir, "items.json", item(`,"pricing":"$5"`)) }, "not in the list of nouns")
	f(func(c *Config, dir string) { write(dir, "items.json", item("")); c.Nouns = "" }, "no synthetic goal")
	f(func(c *Config, dir string) { write(dir, "items.json", "\x1f\x8b junk") }, "unpack")
	f(func(c *Config, dir string) { write(dir, "items_ins_v2.json", "[]") },
		"items_ins_v2.json", "the file begins with [")
	f(func(c *Config, dir string) { write(dir, "nouns.json", `{"A":1}`) }, "nouns.json", "A:")
	f(func(c *Config, dir string) { c.Mode = "html" }, "text_rich")
	f(func(c *Config, dir string) { c.Goals = "robot" }, "human or synthetic")
	f(func(c *Config, dir string) { c.SeedMode = "random" }, "verl or princeton")
	f(func(c *Config, dir string) { c.Reward = "big" }, "raw or success")
	f(func(c *Config, dir string) { c.MaxSteps = -1 }, "max steps")
	f(func(c *Config, dir string) { c.NumProducts = -1 }, "num products")
}

func TestInfoHasTheFilesAndTheNouns(t *testing.T) {
	c := shopConfig()
	listed := openFamily(t, c).Info()
	if listed.Nouns != "listed" || listed.Products != 16 || listed.Goals != 43 || len(listed.Files) != 3 ||
		listed.Files[0].Known || len(listed.Files[0].SHA256) != 64 {
		t.Errorf("info = %+v", listed)
	}
	c.Nouns = ""
	c.Checksums = map[string]string{"items.json": strings.ToUpper(fileSum(t, listed, "items.json"))}
	if guessed := openFamily(t, c).Info(); guessed.Nouns != "guessed" {
		t.Errorf("info without a list of nouns = %+v", guessed)
	}
}

func fileSum(t *testing.T, info Info, name string) string {
	t.Helper()
	for _, f := range info.Files {
		if filepath.Base(f.Path) == name {
			return f.SHA256
		}
	}
	t.Fatalf("%s is not in %+v", name, info)
	return ""
}
