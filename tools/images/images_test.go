package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// opened is an archive as an engine reads it.
type opened struct {
	files map[string][]byte
	// digest is what the index names.
	digest string
	images map[string]*openedImage
}

type openedImage struct {
	manifest manifest
	config   config
	entries  []*tar.Header
	contents map[string][]byte
}

// open reads an archive back and checks every digest and size in it.
func open(t *testing.T, file string) *opened {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, files := untar(t, f)
	o := &opened{files: files, images: map[string]*openedImage{}}
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	decode(t, files["oci-layout"], &layout)
	if layout.Version != "1.0.0" {
		t.Errorf("layout version %q", layout.Version)
	}
	var top index
	decode(t, files["index.json"], &top)
	if len(top.Manifests) != 1 {
		t.Fatalf("the index names %d manifests", len(top.Manifests))
	}
	o.digest = top.Manifests[0].Digest
	list := top.Manifests
	if list[0].MediaType == mediaIndex {
		var inner index
		decode(t, o.blob(t, list[0]), &inner)
		list = inner.Manifests
	}
	for _, d := range list {
		o.images[d.Platform.String()] = o.image(t, d)
	}
	return o
}

func (o *opened) image(t *testing.T, d descriptor) *openedImage {
	t.Helper()
	i := &openedImage{contents: map[string][]byte{}}
	decode(t, o.blob(t, d), &i.manifest)
	decode(t, o.blob(t, i.manifest.Config), &i.config)
	if len(i.config.RootFS.DiffIDs) != len(i.manifest.Layers) {
		t.Fatalf("%d layers, %d digests of them", len(i.manifest.Layers), len(i.config.RootFS.DiffIDs))
	}
	for n, l := range i.manifest.Layers {
		zip, err := gzip.NewReader(bytes.NewReader(o.blob(t, l)))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(zip)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(plain); i.config.RootFS.DiffIDs[n] != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("layer %d has another digest than the configuration says", n)
		}
		headers, contents := untar(t, bytes.NewReader(plain))
		i.entries = append(i.entries, headers...)
		for name, data := range contents {
			i.contents[name] = data
		}
	}
	return i
}

func (o *opened) blob(t *testing.T, d descriptor) []byte {
	t.Helper()
	data, ok := o.files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	if sum := sha256.Sum256(data); !ok || "sha256:"+hex.EncodeToString(sum[:]) != d.Digest || int64(len(data)) != d.Size {
		t.Fatalf("blob %s is missing or another", d.Digest)
	}
	return data
}

func untar(t *testing.T, r io.Reader) ([]*tar.Header, map[string][]byte) {
	t.Helper()
	var headers []*tar.Header
	contents := map[string][]byte{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := contents[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		headers = append(headers, h)
		if h.Typeflag != tar.TypeDir {
			contents[h.Name] = data
		}
	}
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%v in %.200s", err, data)
	}
}

// mainRoot is the main module's folder.
func mainRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// archives builds all images once for all tests.
var archives = sync.OnceValues(func() (string, error) {
	out, err := os.MkdirTemp("", "images-*")
	if err != nil {
		return "", err
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return out, err
	}
	return out, run(context.Background(), []string{"-root", root, "-out", out, "-version", "v1.2.3", "-revision", "abc", "-epoch", "1700000000"}, io.Discard)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if out, _ := archives(); out != "" {
		os.RemoveAll(out)
	}
	os.Exit(code)
}

func all(t *testing.T) string {
	t.Helper()
	out, err := archives()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImages(t *testing.T) {
	t.Parallel()
	out := all(t)
	bases := map[string]bool{}
	for _, i := range catalogue() {
		t.Run(i.name, func(t *testing.T) {
			o := open(t, filepath.Join(out, i.name+".tar"))
			if len(o.images) != 1 || o.images["linux/"+runtime.GOARCH] == nil {
				t.Fatalf("platforms %v", o.images)
			}
			got := o.images["linux/"+runtime.GOARCH]
			checkConfig(t, i, got)
			checkTree(t, i, got)
			checkMaterials(t, i, got, out)
			checkOldEngines(t, i, o, got)
			bases[got.manifest.Layers[0].Digest] = true
		})
	}
	if len(bases) != 1 {
		t.Errorf("the images do not share their base: %v", bases)
	}
}

func checkConfig(t *testing.T, i image, got *openedImage) {
	t.Helper()
	c := got.config
	if c.OS != "linux" || c.Architecture != runtime.GOARCH || c.Config.User != "65532:0" || c.Config.WorkingDir != "/" {
		t.Errorf("configuration %+v", c)
	}
	if !slices.Equal(c.Config.Entrypoint, []string{"/usr/local/bin/" + i.program}) {
		t.Errorf("entry point %q", c.Config.Entrypoint)
	}
	for _, labels := range []map[string]string{c.Config.Labels, got.manifest.Annotations} {
		for key, want := range map[string]string{
			"version": "v1.2.3", "revision": "abc", "licenses": "Apache-2.0", "source": "https://" + mainModule, "created": "2023-11-14T22:13:20Z", "title": i.title,
		} {
			if labels["org.opencontainers.image."+key] != want {
				t.Errorf("label %s is %q", key, labels["org.opencontainers.image."+key])
			}
		}
	}
	if _, ok := c.Config.ExposedPorts["8080/tcp"]; ok != (i.name == "gateway") {
		t.Errorf("ports %v", c.Config.ExposedPorts)
	}
}

// checkTree looks at every file: what is there, who may do what with it, and that nothing gives rights away.
func checkTree(t *testing.T, i image, got *openedImage) {
	t.Helper()
	modes, total := map[string]fs.FileMode{}, int64(0)
	for _, h := range got.entries {
		name := strings.TrimSuffix(h.Name, "/")
		if h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeLink {
			t.Errorf("%s is of kind %c", name, h.Typeflag)
		}
		mode := h.FileInfo().Mode()
		if mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 || mode.Perm()&0o002 != 0 && name != "tmp" || len(h.PAXRecords) > 0 {
			t.Errorf("%s has mode %v and %v", name, mode, h.PAXRecords)
		}
		if h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.Uid != 0 && !slices.Contains(i.writable, name) {
			t.Errorf("%s belongs to %d:%d %s:%s", name, h.Uid, h.Gid, h.Uname, h.Gname)
		}
		if h.ModTime.Unix() != 1700000000 || path.Clean(name) != name || path.IsAbs(name) || strings.HasPrefix(name, "..") {
			t.Errorf("%q of %v", h.Name, h.ModTime)
		}
		modes[name], total = mode, total+h.Size
	}
	if total > maxBytes {
		t.Errorf("%d bytes", total)
	}
	want := map[string]fs.FileMode{
		"usr/local/bin/" + i.program: 0o555, "tmp": fs.ModeDir | fs.ModeSticky | 0o777, "etc/passwd": 0o444, "etc/ssl/certs/ca-certificates.crt": 0o444,
		"licenses/LICENSE": 0o444, "licenses/NOTICES": 0o444,
	}
	for _, name := range i.aliases {
		want[name] = 0o555
	}
	for _, name := range i.writable {
		want[name] = fs.ModeDir | 0o770
	}
	for name, mode := range want {
		if modes[name] != mode {
			t.Errorf("%s has mode %v, want %v", name, modes[name], mode)
		}
	}
	if passwd := string(got.contents["etc/passwd"]); !strings.Contains(passwd, ":65532:0:") {
		t.Errorf("passwd:\n%s", passwd)
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(got.contents[bundlePath]) || bytes.Count(got.contents[bundlePath], []byte("BEGIN")) < 100 {
		t.Error("there are hardly any authorities")
	}
	for _, words := range []string{"The Go standard library go1.", "google.golang.org/protobuf v"} {
		if i.name != "cli" && !bytes.Contains(got.contents["licenses/NOTICES"], []byte(words)) {
			t.Errorf("the notices do not have %q", words)
		}
	}
}

func checkMaterials(t *testing.T, i image, got *openedImage, out string) {
	t.Helper()
	inside := got.contents["usr/share/sbom/"+i.name+".cdx.json"]
	beside, err := os.ReadFile(filepath.Join(out, i.name+".linux-"+runtime.GOARCH+".cdx.json"))
	if err != nil || !bytes.Equal(inside, beside) {
		t.Errorf("the bill of materials in the image is another than the one beside it: %v", err)
	}
	var b bill
	decode(t, inside, &b)
	sum := sha256.Sum256(got.contents["usr/local/bin/"+i.program])
	if b.Format != "CycloneDX" || b.Metadata.Component.Version != "v1.2.3" || b.Metadata.Component.Hashes[0].Content != hex.EncodeToString(sum[:]) {
		t.Errorf("bill of materials %+v", b.Metadata)
	}
	refs := map[string]bool{b.Metadata.Component.Ref: true}
	for _, c := range b.Components {
		if c.Version == "" || !strings.HasPrefix(c.URL, "pkg:golang/") || refs[c.Ref] || c.Name != "std" && len(c.Hashes) != 1 {
			t.Errorf("component %+v", c)
		}
		refs[c.Ref] = true
	}
	if len(b.Components) < 5 || len(b.Dependencies[0].DependsOn) != len(b.Components) {
		t.Errorf("%d components", len(b.Components))
	}
}

// checkOldEngines sees to it that engines that know Docker's own format find the same image.
func checkOldEngines(t *testing.T, i image, o *opened, got *openedImage) {
	t.Helper()
	var old []dockerEntry
	decode(t, o.files["manifest.json"], &old)
	if len(old) != 1 || !slices.Equal(old[0].RepoTags, []string{"sallyport/" + i.name + ":v1.2.3"}) ||
		old[0].Config != "blobs/sha256/"+strings.TrimPrefix(got.manifest.Config.Digest, "sha256:") || len(old[0].Layers) != len(got.manifest.Layers) {
		t.Errorf("manifest of older engines: %+v", old)
	}
	var top index
	decode(t, o.files["index.json"], &top)
	if a := top.Manifests[0].Annotations; a[annotationName] != "docker.io/sallyport/"+i.name+":v1.2.3" || a[annotationRef] != "v1.2.3" {
		t.Errorf("names %v", a)
	}
}

// copySource copies what git knows of the sources.
func copySource(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "-C", from, "ls-files", "-z", "--", "*.go", "go.mod", "go.sum", "LICENSE", "internal", "gen").Output()
	if err != nil {
		t.Skipf("NOT PROVEN that another folder gives the same images: git does not list the files: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestReproducible builds for both platforms in two folders.
func TestReproducible(t *testing.T) {
	t.Parallel()
	var outs []string
	for _, name := range []string{"here", "some where else"} {
		root, out := filepath.Join(t.TempDir(), name), t.TempDir()
		copySource(t, mainRoot(t), root)
		if err := run(t.Context(), []string{
			"-root", root, "-out", out, "-version", "v1", "-revision", "abc", "-epoch", "1700000000", "-platforms", "linux/amd64,linux/arm64", "-images", "driver-oauth2",
		}, io.Discard); err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out)
	}
	entries, err := os.ReadDir(outs[0])
	if err != nil || len(entries) != 3 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		var sums []string
		for _, out := range outs {
			data, err := os.ReadFile(filepath.Join(out, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			sums = append(sums, fmt.Sprintf("%x", sha256.Sum256(data)))
		}
		if sums[0] != sums[1] {
			t.Errorf("%s is %s in one folder and %s in the other", e.Name(), sums[0], sums[1])
		}
	}
	o := open(t, filepath.Join(outs[0], "driver-oauth2.tar"))
	if len(o.images) != 2 || o.images["linux/amd64"] == nil || o.images["linux/arm64"].config.Architecture != "arm64" {
		t.Errorf("platforms %v", o.images)
	}
	if a, b := o.images["linux/amd64"].manifest.Layers, o.images["linux/arm64"].manifest.Layers; a[0].Digest != b[0].Digest || a[1].Digest == b[1].Digest {
		t.Errorf("layers %v and %v", a, b)
	}
}

func TestBadCommandLines(t *testing.T) {
	t.Parallel()
	given := []string{"-version", "v1", "-revision", "abc", "-epoch", "1"}
	for want, args := range map[string][]string{
		"unexpected argument": {"word"}, "is no tag": {"-tag", "a b"}, "is not built": {"-platforms", "linux/riscv64"},
		"no image": {"-images", "gatewya"}, "seconds since 1970": {"-epoch", "today"}, "flag provided but not defined": {"-no-such"},
	} {
		err := run(t.Context(), append(append([]string{"-out", t.TempDir()}, given...), args...), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if err := run(t.Context(), []string{"-root", t.TempDir(), "-out", t.TempDir()}, io.Discard); err == nil || !strings.Contains(err.Error(), "where there is no git") {
		t.Errorf("without git: %v", err)
	}
}

func TestNormalised(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"sallyport/cli:v1": "docker.io/sallyport/cli:v1", "localhost/sallyport/cli:dev": "localhost/sallyport/cli:dev",
		"registry.example.org/a/b:1": "registry.example.org/a/b:1", "host:5000/a:1": "host:5000/a:1",
	} {
		if got := normalised(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
