package certgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sallyport.dev/sallyport/internal/privatefile"
)

// maxFile bounds a file that is read.
const maxFile = 1 << 20

// Folder names a folder on this machine.
type Folder struct {
	// Dir is made with mode 0700.
	Dir string
	// ClientDir gets a copy of what clients need, ca.crt, tls.crt and tls.key; empty for none.
	ClientDir string
}

// layout is where each file of a part lies, as the reference lays them out.
var layout = map[part]map[string]string{
	partAuthority: {fileCert: "ca.crt", fileKey: "ca.key"},
	partServer:    {fileCert: "server/tls.crt", fileKey: "server/tls.key"},
	partClient:    {fileCert: "client/tls.crt", fileKey: "client/tls.key"},
	partSigning:   {fileSigning: "jwt/signing.pem", filePublic: "jwt/public.pem", fileKeyID: "jwt/kid"},
}

// order is that in which the files of a part are written: keys first, so that a certificate that is there is one whose
// key was there before it.
var order = []string{fileKey, fileCert, fileSigning, filePublic, fileKeyID}

// InFolder keeps everything in files. All of them are its own to change.
func InFolder(ctx context.Context, f Folder, o Options) (*Report, error) {
	if f.Dir == "" {
		return nil, errors.New("no folder is named; pass --output-dir")
	}
	place := &folder{Folder: f}
	report, err := run(ctx, place, o)
	if err != nil || o.DryRun || o.SigningOnly || f.ClientDir == "" {
		return report, err
	}
	copied, err := place.copyClient()
	if err != nil {
		// The copy is a convenience for people; a service may not even be let write there.
		report.Notes = append(report.Notes, "the client's files were not copied: "+err.Error())
	} else if copied {
		report.Done = append(report.Done, f.ClientDir+": copy of the client certificate")
	}
	return report, nil
}

type folder struct{ Folder }

func (f *folder) title() string { return f.Dir }

func (f *folder) name(what part) string {
	return map[part]string{partAuthority: "ca.crt and ca.key", partServer: "server", partClient: "client", partSigning: "jwt", partEncryption: "key"}[what]
}

func (f *folder) wants(what part) bool { return layout[what] != nil }

func (f *folder) remedy(parts []part) string {
	words := []string{"rm", "-r"}
	for _, what := range parts {
		if what == partAuthority {
			words = append(words, filepath.Join(f.Dir, "ca.crt"), filepath.Join(f.Dir, "ca.key"))
			continue
		}
		words = append(words, filepath.Join(f.Dir, f.name(what)))
	}
	return strings.Join(words, " ")
}

// read takes a part for there if any of its files is, as long as a key is among them: a certificate alone is what a
// run leaves that was cut off before the first complete one.
func (f *folder) read(context.Context) (map[part]*found, []string, error) {
	parts := map[part]*found{}
	authority, err := readFile(filepath.Join(f.Dir, layout[partAuthority][fileCert]))
	if err != nil {
		return nil, nil, err
	}
	for what, files := range layout {
		got := &found{files: map[string][]byte{}}
		for name, path := range files {
			data, err := readFile(filepath.Join(f.Dir, filepath.FromSlash(path)))
			if err != nil {
				return nil, nil, err
			}
			if data != nil {
				got.files[name] = data
			}
		}
		if !complete(what, got.files) {
			continue
		}
		if what == partServer || what == partClient {
			got.files[fileAuthority] = authority
		}
		parts[what] = got
	}
	return parts, nil, nil
}

// complete tells whether a part's files are all there. One of the key of sandbox tokens makes it a part already, which
// is then found broken: nobody else can tell which tokens it signed.
func complete(what part, files map[string][]byte) bool {
	if what == partSigning {
		return files[fileSigning] != nil
	}
	return files[fileCert] != nil && files[fileKey] != nil
}

// readFile returns nil for a file that is not there.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look at %s: %w", path, err)
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// write puts every file in place, each whole. If one fails, those before it are put back. A run that is cut off leaves
// what the next one completes: the authority comes first, and each key before its certificate.
func (f *folder) write(_ context.Context, changes []change) error {
	var undo []func() error
	for _, c := range changes {
		for _, name := range order {
			data, ok := c.files[name]
			path := layout[c.part][name]
			if !ok || path == "" {
				continue
			}
			path = filepath.Join(f.Dir, filepath.FromSlash(path))
			back, err := replace(path, data, secretFile(name))
			if err != nil {
				for n := len(undo) - 1; n >= 0; n-- {
					err = errors.Join(err, undo[n]())
				}
				return err
			}
			undo = append(undo, back)
		}
	}
	return nil
}

func secretFile(name string) bool { return name == fileKey || name == fileSigning }

// replace writes a file and returns what brings back the one that was there.
func replace(path string, data []byte, secret bool) (func() error, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	old, err := readFile(path)
	if err != nil {
		return nil, err
	}
	put := func(data []byte) error {
		open := func(file *os.File) error {
			if secret {
				return nil
			}
			return file.Chmod(0o644)
		}
		if err := privatefile.Replace(path, data, open); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		return nil
	}
	if err := put(data); err != nil {
		return nil, err
	}
	return func() error {
		if old == nil {
			return os.Remove(path)
		}
		return put(old)
	}, nil
}

// copyClient brings the client's files to where the client looks for them; it tells whether anything changed.
func (f *folder) copyClient() (bool, error) {
	changed := false
	for _, file := range []struct {
		from, to string
		secret   bool
	}{
		{layout[partClient][fileKey], fileKey, true}, {layout[partClient][fileCert], fileCert, false}, {layout[partAuthority][fileCert], fileAuthority, false},
	} {
		data, err := readFile(filepath.Join(f.Dir, filepath.FromSlash(file.from)))
		if err != nil {
			return changed, err
		}
		to := filepath.Join(f.ClientDir, file.to)
		old, err := readFile(to)
		if err != nil {
			return changed, err
		}
		if old != nil && bytes.Equal(old, data) {
			continue
		}
		if _, err := replace(to, data, file.secret); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}
