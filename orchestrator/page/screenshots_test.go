package page

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestScreenshots makes the pictures of the README from the runs that a page shows. It is part
// of scripts/screenshots.
func TestScreenshots(t *testing.T) {
	dir, address := os.Getenv("EMPO2_SCREENSHOTS"), os.Getenv("EMPO2_SCREENSHOTS_URL")
	if dir == "" || address == "" {
		t.Skip("EMPO2_SCREENSHOTS names no folder, or EMPO2_SCREENSHOTS_URL no page")
	}
	b := openBrowser(t)
	b.open(address)
	newest := value[struct{ Run, All, Place string }](b, `(async () => {
		const names = (await (await fetch("/api/runs")).json()).runs.map(r => encodeURIComponent(r.name));
		const list = "/api/runs/" + names[0] + "/episodes?kind=training&mode=off_policy&outcome=success&step=20&limit=1";
		return { Run: names[0], All: names.join(","), Place: (await (await fetch(list)).json()).rows[0].place };
	})()`)
	episode := newest.Run + "?kind=training&colour=ratio&place=" + url.QueryEscape(newest.Place)
	for _, shot := range []struct {
		name, hash, scheme string
		width, height      int
	}{
		{"now", "#/now/" + newest.Run, "light", 1200, 940},
		{"now-phone", "#/now/" + newest.Run, "dark", 390, 940},
		{"episodes", "#/episodes/" + newest.Run + "?kind=training", "light", 1200, 700},
		{"episode", "#/episode/" + episode, "dark", 1200, 940},
		{"memory", "#/memory/" + newest.Run, "light", 1200, 700},
		{"compare", "#/compare?runs=" + url.QueryEscape(newest.All), "light", 1200, 900},
	} {
		b.size(shot.width, shot.height)
		b.scheme(shot.scheme)
		b.open(address + shot.hash)
		b.until(`![...document.querySelectorAll(".plot")].some(p => !p.querySelector("canvas"))`)
		var picture struct{ Data string }
		b.command("Page.captureScreenshot", object{"format": "png", "optimizeForSpeed": false}, &picture)
		data, err := base64.StdEncoding.DecodeString(picture.Data)
		if err == nil {
			data, err = smaller(data)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, shot.name+".png"), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// smaller encodes a PNG with 256 of its colours, so that it needs less than half of the space:
// the most frequent one of each region of colours, and then the most frequent others.
func smaller(data []byte) ([]byte, error) {
	picture, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	count := map[color.Color]int{}
	bounds := picture.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[picture.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	var first, others color.Palette
	seen := map[[3]uint32]bool{}
	for _, c := range colours {
		r, g, b, _ := c.RGBA()
		if region := [3]uint32{r >> 13, g >> 13, b >> 13}; seen[region] {
			others = append(others, c)
		} else {
			seen[region], first = true, append(first, c)
		}
	}
	palette := append(first, others...)
	few := image.NewPaletted(bounds, palette[:min(256, len(palette))])
	draw.Draw(few, bounds, picture, bounds.Min, draw.Src)
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	err = encoder.Encode(&out, few)
	return out.Bytes(), err
}
