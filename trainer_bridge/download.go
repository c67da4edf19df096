package trainerbridge

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// download gets an archive. The trainer answers with it, or with the address of a storage, which does not get the
// token. That address may be signed: it is a secret, of which only the host is shown.
func (c *Client) download(ctx context.Context, place, dir string) error {
	from, withToken := c.http.Endpoint(place), true
	for range 5 {
		answer, err := c.plain(ctx, http.MethodGet, from, nil, withToken)
		if err != nil {
			return c.http.Failure(ctx, err)
		}
		location := answer.Header.Get("Location")
		if answer.StatusCode/100 != 3 || location == "" {
			defer answer.Body.Close()
			return c.unpack(ctx, answer, dir)
		}
		answer.Body.Close()
		next, err := answer.Request.URL.Parse(location)
		if err != nil {
			return errors.New("the trainer redirects to an address that is none")
		}
		if next.Host == "" || answer.Request.URL.Scheme == "https" && next.Scheme != "https" {
			return fmt.Errorf("the trainer redirects to %s, which is not followed\n"+
				"  hint: a proxy in front of the trainer must keep https in the addresses of its answers", origin(next))
		}
		withToken = withToken && next.Host == answer.Request.URL.Host
		from = next.String()
	}
	return errors.New("the trainer redirects more than 5 times")
}

// origin is what may be shown of an address that may be signed.
func origin(u *url.URL) string { return fmt.Sprintf("%q", u.Scheme+"://"+u.Host) }

// plain makes an exchange whose body is not JSON and may take as long as ctx. Redirections are not followed. Its
// errors do not contain the address.
func (c *Client) plain(ctx context.Context, method, to string, body []byte, withToken bool) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, withoutAddress(err)
	}
	if withToken {
		request.Header = c.http.Header()
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/x-tar")
	}
	if user := request.URL.User; user != nil && request.Header.Get("Authorization") == "" {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	answer, err := c.transport.RoundTrip(request) // an http.Client quotes addresses in its errors
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, origin(request.URL), err)
	}
	return answer, nil
}

// withoutAddress unwraps an error that quotes the whole address of its request.
func withoutAddress(err error) error {
	var quoting *url.Error
	if errors.As(err, &quoting) {
		return quoting.Err
	}
	return err
}

// unpack writes the files of an archive, tar or tar.gz. Only if the connection fails may a repetition help.
func (c *Client) unpack(ctx context.Context, answer *http.Response, dir string) error {
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
		return c.http.Refusal(answer.StatusCode, answer.Header, body)
	}
	body := &watched{from: answer.Body}
	err := untar(body, dir, maxArchive)
	if body.err != nil {
		return c.http.Failure(ctx, body.err)
	}
	return err
}

// watched remembers the error of a reader, to tell it from those of whoever reads from it.
type watched struct {
	from io.Reader
	err  error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.from.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// largeError is the error for a checkpoint beyond the bound.
type largeError struct{ limit int64 }

func (e *largeError) Error() string {
	return fmt.Sprintf("the archive is larger than %d bytes\n"+
		"  hint: a smaller trainer.rank or fewer trainer.target_modules make a smaller checkpoint", e.limit)
}

// bounded returns a largeError instead of what is beyond the limit.
type bounded struct {
	from        io.Reader
	left, limit int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		var one [1]byte
		if n, err := io.ReadFull(b.from, one[:]); n == 0 {
			return 0, err
		}
		return 0, &largeError{b.limit}
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// untar writes the plain files of an archive into a new folder, durably. Folders in it are left out. limit bounds the
// archive after decompression, in bytes.
func untar(from io.Reader, dir string, limit int64) error {
	buffered := bufio.NewReader(from)
	var plain io.Reader = buffered
	if magic, err := buffered.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return fmt.Errorf("the archive: %w", err)
		}
		plain = z
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fullDisk(err)
	}
	archive := tar.NewReader(&bounded{plain, limit, limit})
	for files := 0; ; {
		entry, err := archive.Next()
		switch {
		case err == io.EOF && files > 0:
			return syncDir(dir)
		case err == io.EOF:
			return errors.New("the archive is empty")
		case err != nil:
			return fmt.Errorf("the archive: %w", err)
		case entry.Typeflag != tar.TypeReg:
			continue
		}
		name := path.Base(entry.Name)
		if !filepath.IsLocal(name) || strings.HasPrefix(name, ".") {
			return fmt.Errorf("the archive has a file called %q", entry.Name)
		}
		if files++; files > 1000 {
			return errors.New("the archive has more than 1000 files")
		}
		if err := writeFile(filepath.Join(dir, name), archive); err != nil {
			return fullDisk(err)
		}
	}
}

func writeFile(file string, content io.Reader) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Sync(), f.Close())
}

// fullDisk adds a hint to the error of a disk without space.
func fullDisk(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w\n  hint: free space for the run directory, then continue the run", err)
	}
	return err
}
