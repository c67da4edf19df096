package page

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
)

// TestScreenshots makes the pictures of the README. It is part of scripts/screenshots.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("EMPO2_SCREENSHOTS")
	if dir == "" {
		t.Skip("EMPO2_SCREENSHOTS names no folder for screenshots")
	}
	s := serve(t, newFixture())
	b := openBrowser(t)
	for name, hash := range views() {
		for _, look := range []struct {
			suffix, scheme string
			width, height  int
		}{{"", "light", 1200, 900}, {"-dark", "dark", 1200, 900}, {"-phone", "light", 390, 1100}} {
			b.size(look.width, look.height)
			b.scheme(look.scheme)
			b.open(s.url(hash))
			var picture struct{ Data string }
			b.command("Page.captureScreenshot", object{"format": "png"}, &picture)
			data, err := base64.StdEncoding.DecodeString(picture.Data)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name+look.suffix+".png"), data, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
