package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"

	"sallyport.dev/sallyport/internal/privatefile"
)

// ageIntro is how an encrypted file begins.
const ageIntro = "age-encryption.org/"

// pack writes a folder into one file, the manifest first.
func pack(ctx context.Context, folder, to string, m *Manifest, recipients []age.Recipient) (err error) {
	f, err := os.CreateTemp(filepath.Dir(to), ".sallyport-backup-*")
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	err = packInto(ctx, f, folder, m, recipients)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	// A link, unlike a renaming, replaces nothing.
	if err := os.Link(f.Name(), to); err != nil {
		return fmt.Errorf("give the backup its name: %w", err)
	}
	return privatefile.SyncDir(filepath.Dir(to))
}

func packInto(ctx context.Context, out io.Writer, folder string, m *Manifest, recipients []age.Recipient) error {
	closers := []io.Closer{}
	if len(recipients) > 0 {
		encrypted, err := age.Encrypt(out, recipients...)
		if err != nil {
			return err
		}
		out = encrypted
		closers = append(closers, encrypted)
	}
	w := tar.NewWriter(out)
	closers = append([]io.Closer{w}, closers...)
	names := []string{manifestName}
	for _, e := range m.Entries {
		names = append(names, e.Name)
	}
	for _, name := range names {
		if err := packFile(ctx, w, folder, name, m); err != nil {
			return err
		}
	}
	for _, c := range closers {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

func packFile(ctx context.Context, w *tar.Writer, folder, name string, m *Manifest) error {
	f, err := os.Open(filepath.Join(folder, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: info.Size(), ModTime: m.Created, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.Copy(w, reader{ctx, f})
	return err
}

// unpack writes an archive's files into a folder. Only what the manifest, which comes first, lists with its very size is
// written; nothing of that is believed before check has seen it.
func unpack(ctx context.Context, archive, folder string, identities []age.Identity) (err error) {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("open the backup: %w", err)
	}
	defer f.Close()
	in := bufio.NewReader(reader{ctx, f})
	var source io.Reader = in
	if intro, _ := in.Peek(len(ageIntro)); bytes.Equal(intro, []byte(ageIntro)) {
		if len(identities) == 0 {
			return errors.New("the backup is encrypted; name the file of an identity that it is for")
		}
		if source, err = age.Decrypt(in, identities...); err != nil {
			return fmt.Errorf("decrypt the backup: %w", err)
		}
	}
	r := tar.NewReader(source)
	head, err := r.Next()
	if err != nil || head.Name != manifestName || head.Size > maxManifest {
		return errors.Join(errors.New("this is no backup: it does not begin with a manifest"), err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read the manifest: %w", err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return err
	}
	if err := privatefile.Create(filepath.Join(folder, manifestName), data); err != nil {
		return err
	}
	sizes := map[string]int64{}
	for _, e := range m.Entries {
		sizes[e.Name] = e.Size
	}
	for {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
		size, ok := sizes[head.Name]
		if !ok || head.Typeflag != tar.TypeReg || head.Size != size {
			return fmt.Errorf("the backup holds %q, which its manifest does not list so", head.Name)
		}
		delete(sizes, head.Name)
		if err := unpackFile(r, filepath.Join(folder, filepath.FromSlash(head.Name))); err != nil {
			return fmt.Errorf("unpack %s: %w", head.Name, err)
		}
	}
}

func unpackFile(r io.Reader, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
