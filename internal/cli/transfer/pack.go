// Package transfer turns local files into a tar stream and a tar stream into local files. It trusts what the user names
// and nothing of what a sandbox sends: nothing is written outside the folder that was chosen, whatever names and links the
// stream has. It knows neither gateways nor commands.
package transfer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// MaxEntries bounds the entries of one transfer.
const MaxEntries = 1 << 20

// Sums are the SHA-256 of regular files, in hex, by their name in the archive.
type Sums map[string]string

// Entry is one file to send.
type Entry struct {
	// Name is the name in the archive, with slashes; Path where it is now.
	Name, Path string
	info       fs.FileInfo
}

// Plan is what is to be sent.
type Plan struct {
	Entries []Entry
	// Bytes is the size of all regular files together, Files their number.
	Bytes int64
	Files int
	// Skipped are the files that are neither files, folders nor links.
	Skipped []string
}

// PlanTree plans to send a file or a whole tree under a name; "." sends what is in a folder without the folder itself. Links
// in the tree are sent as links. With only, which are paths below the tree with slashes, nothing else is sent.
func PlanTree(root, name string, only []string) (*Plan, error) {
	p := &Plan{}
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return p, p.add(root, name, info)
	}
	if only != nil {
		for _, rel := range only {
			at := filepath.Join(root, filepath.FromSlash(rel))
			info, err := os.Lstat(at)
			if errors.Is(err, fs.ErrNotExist) {
				continue // It is in the index and not on disk.
			}
			if err != nil {
				return nil, err
			}
			if err := p.add(at, path.Join(name, rel), info); err != nil {
				return nil, err
			}
		}
		return p, nil
	}
	err = filepath.WalkDir(root, func(at string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		info := info
		if at != root {
			if info, err = os.Lstat(at); err != nil {
				return err
			}
		}
		return p.add(at, path.Join(name, filepath.ToSlash(rel)), info)
	})
	return p, err
}

func (p *Plan) add(at, name string, info fs.FileInfo) error {
	switch {
	case len(p.Entries) == MaxEntries:
		return fmt.Errorf("there are more than %d files", MaxEntries)
	case info.Mode().IsRegular():
		p.Bytes += info.Size()
		p.Files++
	case info.IsDir(), info.Mode()&fs.ModeSymlink != 0:
	default:
		p.Skipped = append(p.Skipped, at)
		return nil
	}
	p.Entries = append(p.Entries, Entry{Name: name, Path: at, info: info})
	return nil
}

// Pack writes the plan as tar. Owners are left out: what arrives is its reader's. Sent, if it is not nil, is told how many
// bytes of files have been written so far.
func (p *Plan) Pack(ctx context.Context, w io.Writer, sent func(int64)) (Sums, error) {
	sums := make(Sums, p.Files)
	out := tar.NewWriter(w)
	count := &counter{told: sent}
	for _, e := range p.Entries {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		sum, err := e.pack(out, count)
		if err != nil {
			return nil, err
		}
		if sum != "" {
			sums[e.Name] = sum
		}
	}
	return sums, out.Close()
}

// pack writes one entry and returns the sum of a regular file.
func (e Entry) pack(out *tar.Writer, count *counter) (sum string, err error) {
	link := ""
	if e.info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(e.Path); err != nil {
			return "", err
		}
	}
	h, err := tar.FileInfoHeader(e.info, filepath.ToSlash(link))
	if err != nil {
		return "", fmt.Errorf("describe %s: %w", e.Path, err)
	}
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname = e.Name, 0, 0, "", ""
	// The format that small tars read with names of any length too.
	h.Format, h.AccessTime, h.ChangeTime = tar.FormatGNU, time.Time{}, time.Time{}
	if e.info.IsDir() {
		h.Name += "/"
	}
	if !e.info.Mode().IsRegular() {
		return "", out.WriteHeader(h)
	}
	f, err := os.Open(e.Path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := out.WriteHeader(h); err != nil {
		return "", err
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, hash, count), io.LimitReader(f, h.Size))
	if err != nil {
		return "", err
	}
	if n < h.Size {
		return "", fmt.Errorf("%s became shorter while it was read", e.Path)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// counter tells how much has gone through it.
type counter struct {
	total int64
	told  func(int64)
}

// Write implements io.Writer.
func (c *counter) Write(data []byte) (int, error) {
	c.total += int64(len(data))
	if c.told != nil {
		c.told(c.total)
	}
	return len(data), nil
}
