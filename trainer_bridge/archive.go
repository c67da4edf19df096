package trainerbridge

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/manifest"
)

// maxArchive bounds an archive in bytes, unpacked, in both directions: the adapter and the optimizer's state of a
// large model. The trainer has the same bound.
const maxArchive = 8 << 30

// Download writes the files of a checkpoint to a new folder. tinker is the path that the trainer gave it, in
// any of the forms tinker://model/kind/name and tinker://model/name.
func (c *Client) Download(ctx context.Context, tinker, dir string) error {
	ctx, end, err := c.begin(ctx, "download")
	if err != nil {
		return err
	}
	defer end()
	place, err := checkpointPlace(tinker)
	if err != nil {
		return err
	}
	retry := jsonhttp.Retry{Attempts: 5, Again: func(err error) bool { return again(err) && ctx.Err() == nil }}
	err = retry.Do(ctx, func(ctx context.Context) error {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		return c.download(ctx, place+"/archive", dir)
	})
	var failed *jsonhttp.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed) && again(failed):
		return unavailable(ctx, "download "+tinker, err)
	}
	return fmt.Errorf("download %s: %w", tinker, refusal("download", err))
}

// checkpointPlace is the path of a checkpoint's operations at the server.
func checkpointPlace(tinker string) (string, error) {
	model, rest, ok := strings.Cut(strings.TrimPrefix(tinker, "tinker://"), "/")
	if !ok || model == "" || rest == "" || !strings.HasPrefix(tinker, "tinker://") ||
		slices.Contains(strings.Split(rest, "/"), "..") {
		return "", fmt.Errorf("the trainer's path of a checkpoint is %q\n  hint: it should be tinker://model/name", tinker)
	}
	return "/api/v1/training_runs/" + url.PathEscape(model) + "/checkpoints/" + (&url.URL{Path: rest}).EscapedPath(), nil
}

// upload sends a checkpoint's folder to a trainer of this project. It returns the path for LoadWeights.
func (c *Client) upload(ctx context.Context, dir, name string) (string, error) {
	ctx, end, err := c.begin(ctx, "upload_checkpoint")
	if err != nil {
		return "", err
	}
	defer end()
	body, err := pack(dir, maxArchive)
	if err != nil {
		return "", fmt.Errorf("upload %s: %w", dir, err)
	}
	var out pathOutput
	retry := jsonhttp.Retry{Attempts: 5, Again: again}
	err = retry.Do(ctx, func(ctx context.Context) error { return c.uploadOnce(ctx, name, body, &out) })
	switch {
	case err == nil && out.Path == "":
		return "", fmt.Errorf("upload %s: the trainer's answer has no path%s", dir, otherHint)
	case err == nil:
		return out.Path, nil
	case again(err):
		return "", unavailable(ctx, "upload_checkpoint", err)
	}
	return "", refusal("upload_checkpoint", err)
}

func (c *Client) uploadOnce(ctx context.Context, name string, body []byte, out *pathOutput) error {
	to := c.http.Endpoint("/api/v1/upload_checkpoint?name=" + url.QueryEscape(name))
	answer, err := c.plain(ctx, http.MethodPost, to, body, true)
	if err != nil {
		return c.http.Failure(ctx, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	switch {
	case err != nil:
		return c.http.Failure(ctx, err)
	case answer.StatusCode/100 != 2:
		return c.http.Refusal(answer.StatusCode, answer.Header, text)
	}
	return json.Unmarshal(text, out)
}

// pack makes an archive of a checkpoint, after a check of its files.
func pack(dir string, limit int64) ([]byte, error) {
	m, err := manifest.Verify(dir, manifest.Checkpoint)
	if err != nil {
		return nil, err
	}
	var total int64
	for _, file := range m.Files {
		if total += file.Bytes; total > limit {
			return nil, &largeError{limit}
		}
	}
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	names := []string{manifest.Checkpoint}
	for name := range m.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		header := tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// forget removes a checkpoint at the trainer, which may not be able to.
func (c *Client) forget(ctx context.Context, tinker string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	place, err := checkpointPlace(tinker)
	if err == nil {
		err = c.http.Call(ctx, jsonhttp.Request{Method: http.MethodDelete, Path: place}, nil)
	}
	if err != nil {
		c.cfg.Log.Debug().Err(err).Str("checkpoint", tinker).Msg("the trainer keeps an old checkpoint")
	}
}
