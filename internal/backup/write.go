package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"sallyport.dev/sallyport/internal/privatefile"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

// File is one file beside the database: its name inside a backup, at most one folder deep, and where the gateway keeps
// it.
type File struct{ Name, Path string }

// Source is what to copy.
type Source struct {
	// Database is the path of the SQLite file; empty where the database is PostgreSQL.
	Database string
	Files    []File
	// Missing names what is not among Files although the gateway uses it.
	Missing []string
	// Version and Gateway go into the manifest.
	Version, Gateway string
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// IsArchive tells whether a backup to this path is one file rather than a folder.
func IsArchive(to string) bool {
	return strings.HasSuffix(to, ".tar") || strings.HasSuffix(to, ".age")
}

// Write makes a backup at to: a folder, or, where IsArchive says so, one file, encrypted to the recipients if there are
// any. It is there whole or not at all, readable by its owner only, and on disk when Write returns. Nothing that is
// there is replaced. The database is copied first, so that every key that its rows need is among the keys copied then.
// The digest identifies the manifest, and by it the whole backup.
func Write(ctx context.Context, to string, src Source, recipients []age.Recipient) (m *Manifest, digest string, err error) {
	if len(recipients) > 0 && !IsArchive(to) {
		return nil, "", fmt.Errorf("an encrypted backup is one file; name it, such as %s.tar.age", to)
	}
	if strings.HasSuffix(to, ".age") && len(recipients) == 0 {
		return nil, "", errors.New("a backup named .age is encrypted; name a recipient, or another file")
	}
	if err := free(to); err != nil {
		return nil, "", err
	}
	staging, err := os.MkdirTemp(filepath.Dir(filepath.Clean(to)), ".sallyport-backup-")
	if err != nil {
		return nil, "", fmt.Errorf("make room for the backup: %w", err)
	}
	defer func() {
		// After it was renamed it is gone already.
		err = errors.Join(err, os.RemoveAll(staging))
	}()
	if m, err = collect(ctx, staging, src); err != nil {
		return nil, "", err
	}
	data, digest, err := m.encode()
	if err != nil {
		return nil, "", err
	}
	if err := privatefile.Create(filepath.Join(staging, manifestName), data); err != nil {
		return nil, "", fmt.Errorf("write the manifest: %w", err)
	}
	if IsArchive(to) {
		err = pack(ctx, staging, to, m, recipients)
	} else {
		err = settle(staging, to)
	}
	if err != nil {
		return nil, "", err
	}
	return m, digest, nil
}

// free refuses a path where something is; an empty folder is nothing.
func free(to string) error {
	info, err := os.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look where the backup goes: %w", err)
	}
	if info.IsDir() && !IsArchive(to) {
		if entries, err := os.ReadDir(to); err == nil && len(entries) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%s is there already; a backup replaces nothing: name another place", to)
}

// collect copies everything into a folder.
func collect(ctx context.Context, into string, src Source) (*Manifest, error) {
	now := time.Now
	if src.Now != nil {
		now = src.Now
	}
	m := &Manifest{
		Format: Format, Product: "sallyport-gateway", Version: src.Version, Gateway: src.Gateway, Created: now().UTC().Truncate(time.Second),
		Database: Database{Kind: "postgresql"}, Missing: src.Missing,
	}
	if src.Database != "" {
		info, err := sqlite.Snapshot(ctx, src.Database, filepath.Join(into, databaseName))
		if err != nil {
			return nil, err
		}
		m.Database = Database{Kind: "sqlite", Schema: info.Schema, Revision: info.Revision, Objects: info.Objects}
		e, err := entryOf(ctx, databaseName, filepath.Join(into, databaseName))
		if err != nil {
			return nil, err
		}
		m.Entries = append(m.Entries, e)
	}
	for _, f := range slices.SortedFunc(slices.Values(src.Files), func(a, b File) int { return strings.Compare(a.Name, b.Name) }) {
		if !goodName(f.Name) {
			return nil, fmt.Errorf("%s cannot be in a backup under the name %q", f.Path, f.Name)
		}
		target := filepath.Join(into, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return nil, fmt.Errorf("make room for the backup: %w", err)
		}
		e, err := copyFile(ctx, f, target)
		if err != nil {
			return nil, fmt.Errorf("copy %s: %w", f.Path, err)
		}
		m.Entries = append(m.Entries, e)
	}
	return m, nil
}

// copyFile copies one file and waits until it is on disk. A file that grows meanwhile is copied as far as it was.
func copyFile(ctx context.Context, f File, target string) (e Entry, err error) {
	in, err := os.Open(f.Path)
	if err != nil {
		return Entry{}, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return Entry{}, err
	}
	if !info.Mode().IsRegular() {
		return Entry{}, errors.New("it is no file")
	}
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Entry{}, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), reader{ctx, io.LimitReader(in, info.Size())})
	if err == nil {
		err = out.Sync()
	}
	return Entry{Name: f.Name, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, errors.Join(err, out.Close())
}

func entryOf(ctx context.Context, name, path string) (Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, reader{ctx, f})
	return Entry{Name: name, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}

// reader ends with its context.
type reader struct {
	ctx context.Context //nolint:containedctx // reason: it belongs to one copy
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// settle gives the finished folder its name.
func settle(staging, to string) error {
	for _, dir := range []string{staging, filepath.Dir(filepath.Clean(to))} {
		if err := privatefile.SyncDir(dir); err != nil {
			return err
		}
	}
	if err := os.Rename(staging, to); err != nil {
		return fmt.Errorf("give the backup its name: %w", err)
	}
	return privatefile.SyncDir(filepath.Dir(filepath.Clean(to)))
}
