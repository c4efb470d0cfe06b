package transfer

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

const (
	// maxName bounds a name in the archive, in bytes.
	maxName = 4096
	// permissions are the bits of a mode that are taken over.
	permissions = 0o777
)

// Unpacked is what came of a stream.
type Unpacked struct {
	Sums  Sums
	Bytes int64
	// Skipped are the entries that were left out, each with the reason. At most maxSkipped are kept; More counts the others.
	Skipped []string
	More    int
}

const maxSkipped = 100

func (u *Unpacked) skip(name, why string) {
	if len(u.Skipped) == maxSkipped {
		u.More++
		return
	}
	u.Skipped = append(u.Skipped, fmt.Sprintf("%q: %s", name, why))
}

// unpacker writes one stream into a folder.
type unpacker struct {
	*Unpacked
	root  *os.Root
	count *counter
	// raw is what has been read of the stream.
	raw *counter
	// folders get their modes and times last, since writing into them changes both and may need more rights.
	folders []*tar.Header
}

// Unpack writes a tar stream into a folder, which is made. Names, and links on their way, that lead out of the folder are
// refused by the system; links whose target is outside, devices and the like are left out. A file takes the place of what
// has its name only once it is there whole. Received, if it is not nil, is told how many bytes of files have been written.
func Unpack(ctx context.Context, r io.Reader, dir string, received func(int64)) (*Unpacked, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // As mkdir makes it, within the user's umask.
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u := &unpacker{Unpacked: &Unpacked{Sums: Sums{}}, root: root, count: &counter{told: received}, raw: &counter{}}
	in := tar.NewReader(io.TeeReader(r, u.raw))
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the archive: %w", err)
		}
		if n == MaxEntries {
			return nil, fmt.Errorf("the archive has more than %d entries", MaxEntries)
		}
		if err := u.entry(h, in); err != nil {
			return nil, err
		}
	}
	for i := len(u.folders) - 1; i >= 0; i-- {
		h := u.folders[i]
		if err := u.finish(clean(h.Name), h); err != nil {
			return nil, err
		}
	}
	u.Bytes = u.count.total
	return u.Unpacked, nil
}

// clean is a name without what leads nowhere.
func clean(name string) string { return path.Clean(strings.TrimSuffix(name, "/")) }

func (u *unpacker) entry(h *tar.Header, in io.Reader) error {
	name := clean(h.Name)
	switch {
	case len(h.Name) > maxName:
		return fmt.Errorf("the archive has a name of %d bytes", len(h.Name))
	case name == ".":
		return nil // The folder itself is the user's.
	case !filepath.IsLocal(filepath.FromSlash(name)):
		u.skip(h.Name, "it leads out of the folder")
		return nil
	}
	if parent := path.Dir(name); parent != "." {
		if linked, err := u.linked(parent); err != nil {
			return err
		} else if linked {
			u.skip(h.Name, "its folder is a link")
			return nil
		}
		if err := u.root.MkdirAll(parent, 0o755); err != nil {
			return fmt.Errorf("make the folder of %q: %w", name, err)
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.folder(name); err != nil {
			return err
		}
		u.folders = append(u.folders, h)
		return nil
	case tar.TypeReg:
		return u.file(name, h, in)
	case tar.TypeSymlink:
		return u.link(name, h)
	case tar.TypeLink:
		return u.hardLink(name, h)
	default:
		u.skip(h.Name, "it is neither a file, a folder nor a link")
		return nil
	}
}

// linked tells whether a link is on the way to a folder. The system lets none lead out, but where a link is on the way, what
// a further link means cannot be told from its name.
func (u *unpacker) linked(folder string) (bool, error) {
	for at := folder; at != "."; at = path.Dir(at) {
		info, err := u.root.Lstat(at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			// Above may be a link too, over which Lstat goes.
			if path.Dir(at) == "." {
				return false, fmt.Errorf("look at %q: %w", at, err)
			}
			continue
		}
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return true, nil
		}
	}
	return false, nil
}

// inside tells whether a link's target, as it is written, stays in the folder: it goes up first and then only down.
func inside(name, target string) bool {
	if len(target) > maxName || target == "" || path.IsAbs(target) || filepath.IsAbs(filepath.FromSlash(target)) {
		return false
	}
	down := false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if down {
				return false
			}
		default:
			down = true
		}
	}
	return filepath.IsLocal(filepath.Join(filepath.FromSlash(path.Dir(name)), filepath.FromSlash(target)))
}

// folder makes a folder; one that is there stays. A link to one is replaced, since the archive means the folder.
func (u *unpacker) folder(name string) error {
	info, err := u.root.Lstat(name)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if err := u.root.Remove(name); err != nil {
			return fmt.Errorf("replace the link %q: %w", name, err)
		}
	}
	// It stays writable until its mode is set in the end.
	if err := u.root.MkdirAll(name, 0o755); err != nil {
		return fmt.Errorf("make the folder %q: %w", name, err)
	}
	return nil
}

// file writes a regular file beside its place and puts it there.
func (u *unpacker) file(name string, h *tar.Header, in io.Reader) (err error) {
	temporary := path.Join(path.Dir(name), ".sallyport-"+rand.Text())
	f, err := u.root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	defer func() {
		if err != nil {
			// The failure says more than that its remains could not be removed.
			_ = u.root.Remove(temporary)
		}
	}()
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(u, f, hash, u.count), in)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	if err := u.finish(temporary, h); err != nil {
		return err
	}
	if err := u.root.Rename(temporary, name); err != nil {
		return fmt.Errorf("put %q in its place: %w", name, err)
	}
	u.Sums[name] = hex.EncodeToString(hash.Sum(nil))
	return nil
}

// Write implements io.Writer for each part of a file before it is written: no more comes out of the stream than went into
// it. Holes of sparse files, which take no room in it, would otherwise fill a disk.
func (u *unpacker) Write(data []byte) (int, error) {
	if u.count.total+int64(len(data)) > u.raw.total {
		return 0, errors.New("the archive has a file with holes, which is not taken")
	}
	return len(data), nil
}

// finish sets mode and time.
func (u *unpacker) finish(name string, h *tar.Header) error {
	if err := u.root.Chmod(name, fs.FileMode(h.Mode)&permissions); err != nil {
		return fmt.Errorf("set the mode of %q: %w", h.Name, err)
	}
	if err := u.root.Chtimes(name, time.Now(), h.ModTime); err != nil {
		return fmt.Errorf("set the time of %q: %w", h.Name, err)
	}
	return nil
}

// link makes a symbolic link whose target, as it is written, is in the folder.
func (u *unpacker) link(name string, h *tar.Header) error {
	if !inside(name, h.Linkname) {
		u.skip(h.Name, "it is a link that leads out of the folder")
		return nil
	}
	if err := u.vacate(name); err != nil {
		return err
	}
	if err := u.root.Symlink(filepath.FromSlash(h.Linkname), name); err != nil {
		return fmt.Errorf("make the link %q: %w", name, err)
	}
	return nil
}

// hardLink makes a further name of a file that the archive has brought.
func (u *unpacker) hardLink(name string, h *tar.Header) error {
	from := clean(h.Linkname)
	sum, ok := u.Sums[from]
	if !ok || from == name {
		u.skip(h.Name, "it is a link to a file that did not come with it")
		return nil
	}
	if err := u.vacate(name); err != nil {
		return err
	}
	if err := u.root.Link(from, name); err != nil {
		return fmt.Errorf("make the link %q: %w", name, err)
	}
	u.Sums[name] = sum
	return nil
}

// vacate removes what has a name, but for a folder.
func (u *unpacker) vacate(name string) error {
	info, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.IsDir() {
		err = errors.New("there is a folder of this name")
	}
	if err == nil {
		err = u.root.Remove(name)
	}
	if err != nil {
		return fmt.Errorf("replace %q: %w", name, err)
	}
	delete(u.Sums, name)
	return nil
}
