package backup

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/gofrs/flock"

	"sallyport.dev/sallyport/internal/privatefile"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

// Target is where a gateway keeps what a backup holds.
type Target struct {
	// Database is the path of the SQLite file; empty where the database is PostgreSQL, which is restored before by its
	// own tools.
	Database string
	// Files name where files go; Folders where those of a folder of the backup go, by the folder's name.
	Files   map[string]string
	Folders map[string]string
}

// Options are what Restore may be told besides.
type Options struct {
	// Identities decrypt the backup, if it is encrypted.
	Identities []age.Identity
	// Digest, if not empty, is the only one that the manifest may have.
	Digest string
	// VerifyOnly checks the backup and the place and writes nothing.
	VerifyOnly bool
}

// Restore checks a backup, every file against its checksum and the database from end to end, and puts it in place. It
// replaces nothing: a database that is there is refused, as is a key that differs; a key that is the same is left. What
// was put in place is taken away again when something fails.
func Restore(ctx context.Context, from string, to Target, o Options) (m *Manifest, err error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, fmt.Errorf("open the backup: %w", err)
	}
	folder := from
	if !info.IsDir() {
		// Beside the archive, so that keys are written in the clear nowhere else before they are in place.
		if folder, err = os.MkdirTemp(stagingFor(to, from), ".sallyport-restore-"); err != nil {
			return nil, fmt.Errorf("make room for the restore: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
		if err := unpack(ctx, from, folder, o.Identities); err != nil {
			return nil, err
		}
	}
	if m, err = check(ctx, folder, o.Digest); err != nil {
		return nil, err
	}
	if (m.Database.Kind == "sqlite") != (to.Database != "") {
		return nil, fmt.Errorf("the backup is of a gateway with %s, and the settings name another kind of database", m.Database.Kind)
	}
	plan, err := planOf(m, folder, to)
	if err != nil || o.VerifyOnly {
		return m, err
	}
	return m, place(ctx, plan, to.Database)
}

// stagingFor is a folder of the kind that the restored files go to, or else the archive's.
func stagingFor(to Target, archive string) string {
	for _, p := range []string{to.Database} {
		if dir := filepath.Dir(p); p != "" {
			if info, err := os.Stat(dir); err == nil && info.IsDir() {
				return dir
			}
		}
	}
	return filepath.Dir(archive)
}

// check verifies a folder against its manifest.
func check(ctx context.Context, folder, digest string) (*Manifest, error) {
	f, err := os.Open(filepath.Join(folder, manifestName))
	if err != nil {
		return nil, fmt.Errorf("this is no backup: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if len(data) > maxManifest {
		return nil, errors.New("read the manifest: it is too long")
	}
	if got := digestOf(data); digest != "" && subtle.ConstantTimeCompare([]byte(got), []byte(strings.ToLower(digest))) == 0 {
		return nil, fmt.Errorf("the manifest is another one: its SHA-256 is %s", got)
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, err
	}
	for _, want := range m.Entries {
		path := filepath.Join(folder, filepath.FromSlash(want.Name))
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
			return nil, errors.Join(fmt.Errorf("the backup is incomplete: %s is missing", want.Name), err)
		}
		got, err := entryOf(ctx, want.Name, path)
		if err != nil {
			return nil, fmt.Errorf("read %s of the backup: %w", want.Name, err)
		}
		if got != want {
			return nil, fmt.Errorf("the backup is damaged: %s is not what the manifest says", want.Name)
		}
	}
	if m.Database.Kind == "sqlite" {
		info, err := sqlite.Inspect(ctx, filepath.Join(folder, databaseName))
		if err != nil {
			return nil, err
		}
		if info.Revision != m.Database.Revision || info.Objects != m.Database.Objects {
			return nil, errors.New("the backup is damaged: the database is not the one that the manifest tells of")
		}
	}
	return m, nil
}

// move is one file to put in place.
type move struct{ from, to string }

// planOf decides where everything goes, the database last, and refuses what is in the way.
func planOf(m *Manifest, folder string, to Target) ([]move, error) {
	var plan, last []move
	for _, e := range m.Entries {
		from := filepath.Join(folder, filepath.FromSlash(e.Name))
		if e.Name == databaseName {
			for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
				if _, err := os.Lstat(to.Database + suffix); !errors.Is(err, fs.ErrNotExist) {
					return nil, fmt.Errorf("%s is there already; a restore replaces nothing: move the old state away first", to.Database+suffix)
				}
			}
			last = append(last, move{from, to.Database})
			continue
		}
		target := to.Files[e.Name]
		if target == "" {
			dir := to.Folders[path.Dir(e.Name)]
			if dir == "" {
				return nil, fmt.Errorf("the backup holds %s, and the settings name no place for it", e.Name)
			}
			target = filepath.Join(dir, path.Base(e.Name))
		}
		same, err := sameFile(from, target)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			plan = append(plan, move{from, target})
		case err != nil:
			return nil, err
		case !same:
			return nil, fmt.Errorf("%s is there already and differs from the backup; a restore replaces nothing: move the old state away first", target)
		}
	}
	return append(plan, last...), nil
}

// sameFile compares; fs.ErrNotExist means that target is not there.
func sameFile(from, target string) (bool, error) {
	there, err := os.ReadFile(target)
	if err != nil {
		return false, err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(there, data) == 1, nil
}

// place carries the plan out, under the lock that a gateway with this database would hold.
func place(ctx context.Context, plan []move, database string) (err error) {
	if database != "" {
		if err := os.MkdirAll(filepath.Dir(database), 0o700); err != nil {
			return fmt.Errorf("make the state directory: %w", err)
		}
		lock := flock.New(database+".lock", flock.SetPermissions(0o600))
		locked, err := lock.TryLock()
		if err != nil {
			return fmt.Errorf("lock the database: %w", err)
		}
		if !locked {
			return fmt.Errorf("a gateway is using %s; stop it first", database)
		}
		defer func() { _ = lock.Unlock() }() // Nobody can do anything about that; it ends with the process.
	}
	var placed []string
	defer func() {
		if err == nil {
			return
		}
		for _, p := range placed {
			err = errors.Join(err, os.Remove(p))
		}
	}()
	for _, mv := range plan {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(mv.to), 0o700); err != nil {
			return fmt.Errorf("put %s in place: %w", mv.to, err)
		}
		if err := putFile(ctx, mv); err != nil {
			return fmt.Errorf("put %s in place: %w", mv.to, err)
		}
		placed = append(placed, mv.to)
	}
	return nil
}

// putFile copies under another name and links, so that the file is there whole or not at all and replaces nothing.
func putFile(ctx context.Context, mv move) (err error) {
	dir := filepath.Dir(mv.to)
	temporary, err := os.MkdirTemp(dir, ".sallyport-restore-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temporary)) }()
	part := filepath.Join(temporary, "part")
	if _, err := copyFile(ctx, File{Path: mv.from}, part); err != nil {
		return err
	}
	if err := os.Link(part, mv.to); err != nil {
		return err
	}
	return privatefile.SyncDir(dir)
}
