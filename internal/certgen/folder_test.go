package certgen_test

import (
	"bytes"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/certgen"
)

// local is a run with files.
type local struct {
	folder  certgen.Folder
	options certgen.Options
	now     time.Time
}

func newLocal(t *testing.T) *local {
	t.Helper()
	l := &local{now: start}
	dir := t.TempDir()
	l.folder = certgen.Folder{Dir: filepath.Join(dir, "tls"), ClientDir: filepath.Join(dir, "client", "mtls")}
	l.options = certgen.Options{Names: []string{"host.openshell.internal"}, Now: func() time.Time { return l.now }}
	return l
}

func (l *local) run(t *testing.T) *certgen.Report {
	t.Helper()
	report, err := certgen.InFolder(t.Context(), l.folder, l.options)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func (l *local) file(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(l.folder.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// files lists everything below a folder with its mode.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			rest, _ := filepath.Rel(dir, path)
			out = append(out, rest+" "+info.Mode().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFolder(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	if report := l.run(t); len(report.Done) != 5 {
		t.Errorf("%+v", report)
	}
	want := []string{
		"ca.crt -rw-r--r--", "ca.key -rw-------", "client/tls.crt -rw-r--r--", "client/tls.key -rw-------", "jwt/kid -rw-r--r--",
		"jwt/public.pem -rw-r--r--", "jwt/signing.pem -rw-------", "server/tls.crt -rw-r--r--", "server/tls.key -rw-------",
	}
	if got := files(t, l.folder.Dir); !slices.Equal(got, want) {
		t.Errorf("files %q", got)
	}
	if got := files(t, l.folder.ClientDir); !slices.Equal(got, []string{"ca.crt -rw-r--r--", "tls.crt -rw-r--r--", "tls.key -rw-------"}) {
		t.Errorf("client's files %q", got)
	}
	trusted(t, l.file(t, "server/tls.crt"), l.file(t, "ca.crt"), x509.ExtKeyUsageServerAuth, "host.openshell.internal", start)
	checkSigning(t, map[string][]byte{"signing.pem": l.file(t, "jwt/signing.pem"), "public.pem": l.file(t, "jwt/public.pem"), "kid": l.file(t, "jwt/kid")})
	if report := l.run(t); len(report.Done) != 0 {
		t.Errorf("the second run did %q", report.Done)
	}
	l.options.Names = append(l.options.Names, "another.example.org")
	authority, client := l.file(t, "ca.crt"), l.file(t, "client/tls.crt")
	if report := l.run(t); len(report.Done) != 1 || !bytes.Equal(authority, l.file(t, "ca.crt")) || !bytes.Equal(client, l.file(t, "client/tls.crt")) {
		t.Errorf("a new name: %q", report.Done)
	}
	l.now = start.Add(340 * day)
	if report := l.run(t); len(report.Done) != 3 {
		t.Errorf("renewal: %q", report.Done)
	}
	copied, err := os.ReadFile(filepath.Join(l.folder.ClientDir, "tls.crt"))
	if err != nil || !bytes.Equal(copied, l.file(t, "client/tls.crt")) {
		t.Errorf("the client's copy is old: %v", err)
	}
}

// TestFolderAfterAnyCut removes what a run that was cut off would not have written yet.
func TestFolderAfterAnyCut(t *testing.T) {
	t.Parallel()
	written := []string{"ca.key", "ca.crt", "server/tls.key", "server/tls.crt", "client/tls.key", "client/tls.crt", "jwt/signing.pem", "jwt/public.pem", "jwt/kid"}
	for n := range len(written) + 1 {
		l := newLocal(t)
		l.run(t)
		for _, name := range written[n:] {
			if err := os.Remove(filepath.Join(l.folder.Dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		signing := []byte(nil)
		if n > 6 {
			signing = l.file(t, "jwt/signing.pem")
		}
		l.run(t)
		if got := files(t, l.folder.Dir); len(got) != len(written) {
			t.Errorf("cut after %d: %q", n, got)
		}
		trusted(t, l.file(t, "server/tls.crt"), l.file(t, "ca.crt"), x509.ExtKeyUsageServerAuth, "localhost", start)
		trusted(t, l.file(t, "client/tls.crt"), l.file(t, "ca.crt"), x509.ExtKeyUsageClientAuth, "", start)
		if signing != nil && !bytes.Equal(signing, l.file(t, "jwt/signing.pem")) {
			t.Errorf("cut after %d: another key signs", n)
		}
		if report := l.run(t); len(report.Done) > 0 {
			t.Errorf("cut after %d, once more: %q", n, report.Done)
		}
	}
	// The same in the middle of a renewal: a new key beside the old certificate.
	l := newLocal(t)
	l.run(t)
	if err := os.WriteFile(filepath.Join(l.folder.Dir, "server", "tls.key"), l.file(t, "client/tls.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if report := l.run(t); len(report.Done) != 1 || !strings.Contains(report.Done[0], "do not belong together") {
		t.Errorf("%q", report.Done)
	}
}

func TestFolderThatCannotBeRepaired(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	l.run(t)
	for _, name := range []string{"ca.key", "client/tls.key"} {
		if err := os.Remove(filepath.Join(l.folder.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	before := files(t, l.folder.Dir)
	_, err := certgen.InFolder(t.Context(), l.folder, l.options)
	if err == nil || !strings.Contains(err.Error(), "partial PKI state in "+l.folder.Dir) || !strings.Contains(err.Error(), "rm -r "+filepath.Join(l.folder.Dir, "server")) {
		t.Errorf("got %v", err)
	}
	if got := files(t, l.folder.Dir); !slices.Equal(got, before) {
		t.Errorf("files %q", got)
	}
}

// TestFolderPutsBack makes the last write fail and looks for what the first did.
func TestFolderPutsBack(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	l.run(t)
	authority, server := l.file(t, "ca.crt"), l.file(t, "server/tls.crt")
	if err := os.RemoveAll(filepath.Join(l.folder.Dir, "jwt")); err != nil {
		t.Fatal(err)
	}
	// A file where a folder is needed.
	if err := os.WriteFile(filepath.Join(l.folder.Dir, "jwt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.now = start.Add(340 * day)
	if _, err := certgen.InFolder(t.Context(), l.folder, l.options); err == nil {
		t.Fatal("no error")
	}
	if !bytes.Equal(authority, l.file(t, "ca.crt")) || !bytes.Equal(server, l.file(t, "server/tls.crt")) {
		t.Error("the files changed")
	}
}

// TestFolderWithoutPlaceForTheCopy is a service whose home may not be written.
func TestFolderWithoutPlaceForTheCopy(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.folder.ClientDir = filepath.Join(file, "mtls")
	if report := l.run(t); len(report.Done) != 4 || len(report.Notes) != 1 || !strings.Contains(report.Notes[0], "were not copied") {
		t.Errorf("%+v", report)
	}
}

func TestFolderDryRunAndSigningOnly(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	l.options.DryRun = true
	if report := l.run(t); len(report.Done) != 4 {
		t.Errorf("%+v", report)
	}
	if _, err := os.Stat(l.folder.Dir); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
	l.options.DryRun, l.options.SigningOnly = false, true
	l.run(t)
	if got := files(t, l.folder.Dir); len(got) != 3 {
		t.Errorf("files %q", got)
	}
	if _, err := certgen.InFolder(t.Context(), certgen.Folder{}, l.options); err == nil {
		t.Error("no folder was accepted")
	}
}
