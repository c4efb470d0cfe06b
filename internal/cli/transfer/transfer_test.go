package transfer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/cli/transfer"
)

// tree writes files by name: "name" with content, "name/" a folder, "name@" a link to the content.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		at := filepath.Join(dir, strings.TrimRight(name, "/@"))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(at, 0o755)
		case strings.HasSuffix(name, "@"):
			err = os.Symlink(files[name], at)
		default:
			err = os.WriteFile(at, []byte(files[name]), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read is the opposite of tree.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == dir {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			out[name+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			out[name+"@"], err = os.Readlink(at)
		default:
			var data []byte
			data, err = os.ReadFile(at)
			out[name] = string(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func pack(t *testing.T, root, name string, only []string) (*bytes.Buffer, transfer.Sums) {
	t.Helper()
	p, err := transfer.PlanTree(root, name, only)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var told int64
	sums, err := p.Pack(t.Context(), &out, func(n int64) { told = n })
	if err != nil || told != p.Bytes || len(sums) != p.Files {
		t.Fatalf("%d of %d bytes, %d of %d sums, %v", told, p.Bytes, len(sums), p.Files, err)
	}
	return &out, sums
}

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"a": "1", "empty": "", "sub/": "", "sub/b c": strings.Repeat("x", 100_000), "sub/none/": "", "up@": "sub/b c", "sub/l@": "../a",
		"-dash": "2", "new\nline": "3", "ünï": "4",
	}
	dir := tree(t, files)
	script := filepath.Join(dir, "sub", "b c")
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "sub", "none"), 0o500); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(script, old, old); err != nil {
		t.Fatal(err)
	}
	archive, sums := pack(t, dir, ".", nil)
	to := filepath.Join(t.TempDir(), "new")
	got, err := transfer.Unpack(t.Context(), archive, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, read(t, to)); diff != "" {
		t.Error(diff)
	}
	if !maps.Equal(sums, got.Sums) || got.Bytes != 100_004 || len(got.Skipped) > 0 {
		t.Errorf("%+v", got)
	}
	for name, mode := range map[string]fs.FileMode{"sub/b c": 0o755, "a": 0o640, "sub/none": 0o500} {
		info, err := os.Stat(filepath.Join(to, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		if name == "sub/b c" && !info.ModTime().Equal(old) {
			t.Errorf("time %s", info.ModTime())
		}
	}
	// Once more over what is there.
	archive, _ = pack(t, dir, ".", nil)
	if _, err := transfer.Unpack(t.Context(), archive, to, nil); err != nil {
		t.Error(err)
	}
}

func TestPlans(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"a": "1", "sub/b": "2", "ignored": "3"})
	for name, tc := range map[string]struct {
		root, as string
		only     []string
		want     []string
	}{
		"a file":           {filepath.Join(dir, "a"), "other", nil, []string{"other"}},
		"a folder":         {dir, "base", []string{"sub/b", "gone"}, []string{"base/sub/b"}},
		"what is in it":    {dir, ".", []string{"a"}, []string{"a"}},
		"nothing is left":  {dir, ".", []string{}, nil},
		"all, with a name": {filepath.Join(dir, "sub"), "x", nil, []string{"x", "x/b"}},
	} {
		p, err := transfer.PlanTree(tc.root, tc.as, tc.only)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, e := range p.Entries {
			got = append(got, e.Name)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	if _, err := transfer.PlanTree(filepath.Join(dir, "nothing"), ".", nil); err == nil {
		t.Error("nothing was planned")
	}
}

// archive makes a tar of headers; those of files have the content "evil".
func archive(tb testing.TB, headers ...tar.Header) *bytes.Buffer {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		h.Mode |= 0o6644
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("evil")); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return &out
}

// Whatever a sandbox sends, nothing is written or linked outside the folder.
func TestNothingEscapes(t *testing.T) {
	t.Parallel()
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
	}
	for name, tc := range map[string]struct {
		headers []tar.Header
		want    map[string]string
		skipped int
	}{
		"up":                 {[]tar.Header{{Name: "../x"}}, map[string]string{}, 1},
		"up in the middle":   {[]tar.Header{{Name: "a/../../x"}}, map[string]string{}, 1},
		"absolute":           {[]tar.Header{{Name: "/tmp/x"}}, map[string]string{}, 1},
		"link up":            {[]tar.Header{link("l", "../outside")}, map[string]string{}, 1},
		"link to everything": {[]tar.Header{link("l", "/etc/passwd")}, map[string]string{}, 1},
		"through a link":     {[]tar.Header{{Name: "d/", Typeflag: tar.TypeDir}, link("l", "d"), {Name: "l/x"}}, map[string]string{"d/": "", "l@": "d"}, 1},
		"over a link":        {[]tar.Header{{Name: "a"}, link("l", "a"), {Name: "l"}}, map[string]string{"a": "evil", "l": "evil"}, 0},
		"folder over a link": {[]tar.Header{{Name: "d/", Typeflag: tar.TypeDir}, link("l", "d"), {Name: "l/", Typeflag: tar.TypeDir}}, map[string]string{"d/": "", "l/": ""}, 0},
		"up behind down":     {[]tar.Header{link("a/b/c", "../.."), link("y", "a/b/c/../..")}, map[string]string{"a/": "", "a/b/": "", "a/b/c@": "../.."}, 1},
		"up by a folder":     {[]tar.Header{link("q/p", ".."), link("q/p/z", "../x")}, map[string]string{"q/": "", "q/p@": ".."}, 1},
		"hard link outside":  {[]tar.Header{{Name: "h", Linkname: "/etc/passwd", Typeflag: tar.TypeLink}}, map[string]string{}, 1},
		"hard link":          {[]tar.Header{{Name: "a"}, {Name: "h", Linkname: "a", Typeflag: tar.TypeLink}}, map[string]string{"a": "evil", "h": "evil"}, 0},
		"device":             {[]tar.Header{{Name: "d", Typeflag: tar.TypeChar}, {Name: "f", Typeflag: tar.TypeFifo}}, map[string]string{}, 2},
		"the folder itself":  {[]tar.Header{{Name: "./", Typeflag: tar.TypeDir}, {Name: "a"}}, map[string]string{"a": "evil"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			dir := filepath.Join(parent, "in", "here")
			got, err := transfer.Unpack(t.Context(), archive(t, tc.headers...), dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, read(t, dir)); diff != "" {
				t.Error(diff)
			}
			if len(got.Skipped) != tc.skipped {
				t.Errorf("left out %q", got.Skipped)
			}
			if left := read(t, filepath.Join(parent, "in")); len(left) != len(tc.want)+1 {
				t.Errorf("outside is %v", left)
			}
			for name := range tc.want {
				if info, err := os.Lstat(filepath.Join(dir, strings.TrimRight(name, "/@"))); err != nil || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
		})
	}
	// A link of the user's own that leads out is not followed either.
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "mine")); err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.Unpack(t.Context(), archive(t, tar.Header{Name: "mine/x"}), dir, nil); err != nil {
		t.Logf("refused: %v", err)
	}
	if left := read(t, outside); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
}

func TestUnpackFails(t *testing.T) {
	t.Parallel()
	whole := archive(t, tar.Header{Name: "a"}).Bytes()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(whole[:514]), dir, nil); err == nil {
		t.Error("half an archive was taken for a whole one")
	}
	if diff := cmp.Diff(map[string]string{"a": "mine"}, read(t, dir)); diff != "" {
		t.Errorf("half a file was put in the place of another: %s", diff)
	}
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(sparse()), dir, nil); err == nil || !strings.Contains(err.Error(), "holes") {
		t.Errorf("a file of nothing but holes: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := transfer.Unpack(ctx, bytes.NewReader(whole), dir, nil); err == nil {
		t.Error("an interrupted transfer succeeded")
	}
}

// sparse is an archive of a few KiB with a file of a tebibyte.
func sparse() []byte {
	pad := func(b []byte) []byte { return append(b, make([]byte, (512-len(b)%512)%512)...) }
	header := func(kind byte, size int) []byte {
		h := make([]byte, 512)
		copy(h, "hole")
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x00", size))
		copy(h[136:], "00000000000\x00        ")
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		sum := 0
		for _, b := range h {
			sum += int(b)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		return h
	}
	var records []byte
	for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=hole", "GNU.sparse.realsize=1099511627776"} {
		n := len(kv) + 2
		for len(strconv.Itoa(n))+len(kv)+2 != n {
			n++
		}
		records = append(records, fmt.Sprintf("%d %s\n", n, kv)...)
	}
	out := append(header('x', len(records)), pad(records)...)
	// A map of no data at all.
	out = append(out, header('0', 512)...)
	out = append(out, pad([]byte("1\n1099511627776\n0\n"))...)
	return append(out, make([]byte, 1024)...)
}

// FuzzUnpack checks that no stream writes outside the folder, whatever comes of it.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "a/b"}).Bytes())
	f.Add(archive(f, tar.Header{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink}, tar.Header{Name: "l/x"}).Bytes())
	f.Add(sparse())
	f.Add(archive(f, tar.Header{Name: "a"}, tar.Header{Name: "b", Linkname: "a", Typeflag: tar.TypeLink}).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		parent := t.TempDir()
		_, _ = transfer.Unpack(t.Context(), bytes.NewReader(data), filepath.Join(parent, "in"), nil)
		entries, err := os.ReadDir(parent)
		if err != nil || len(entries) > 1 {
			t.Errorf("%v, %v", entries, err)
		}
		_ = filepath.WalkDir(parent, func(at string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(at, 0o700) // so that the test's folder can be removed
			}
			return nil
		})
	})
}
