package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// entry is one name in a layer. Exactly one of data, file and link is meant, by the kind.
type entry struct {
	path string
	kind byte
	mode int64
	// owned entries belong to the user of the image, all others to root; the group is 0 in any case.
	owned bool
	data  []byte
	// file is read when the layer is written; link is the path that a hard link shares.
	file, link string
}

func dir(name string) entry { return entry{path: name, kind: tar.TypeDir, mode: 0o755} }

func text(name string, data []byte) entry {
	return entry{path: name, kind: tar.TypeReg, mode: 0o444, data: data}
}

func program(name, file string) entry {
	return entry{path: name, kind: tar.TypeReg, mode: 0o555, file: file}
}

// alias is a hard link: unlike a symbolic one it also works where an image is mounted below another root.
func alias(name, of string) entry {
	return entry{path: name, kind: tar.TypeLink, mode: 0o555, link: of}
}

// writable is a folder for whatever user a platform chooses: such a user is in the group 0.
func writable(name string) entry {
	return entry{path: name, kind: tar.TypeDir, mode: 0o770, owned: true}
}

// common is what all images of a version share, so that nodes keep it once.
func common() ([]entry, error) {
	authorities, err := authorities()
	if err != nil {
		return nil, err
	}
	user := fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\nsallyport:x:%d:%d:Sallyport:/tmp:/sbin/nologin\n", userID, groupID)
	return []entry{
		text("etc/passwd", []byte(user)),
		text("etc/group", []byte("root:x:0:\n")),
		text("etc/nsswitch.conf", []byte("hosts: files dns\n")),
		text(bundlePath, authorities),
		{path: "tmp", kind: tar.TypeDir, mode: 0o1777},
	}, nil
}

// authorities is the pinned bundle of Mozilla's authorities in PEM. Those that are trusted under conditions only are
// left out, since a file cannot say the condition.
func authorities() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("encode an authority: %w", err)
		}
	}
	if out.Len() == 0 {
		return nil, errors.New("the bundle of authorities is empty")
	}
	return out.Bytes(), nil
}

// withParents sorts entries by path and adds the folders above them.
func withParents(entries []entry) []entry {
	byPath := map[string]entry{}
	for _, e := range entries {
		byPath[e.path] = e
	}
	for _, e := range entries {
		for up := path.Dir(e.path); up != "."; up = path.Dir(up) {
			if _, ok := byPath[up]; !ok {
				byPath[up] = dir(up)
			}
		}
	}
	all := make([]entry, 0, len(byPath))
	for _, e := range byPath {
		all = append(all, e)
	}
	// A hard link comes after every file, and so after its own.
	slices.SortFunc(all, func(a, b entry) int {
		if (a.kind == tar.TypeLink) != (b.kind == tar.TypeLink) {
			if a.kind == tar.TypeLink {
				return 1
			}
			return -1
		}
		return strings.Compare(a.path, b.path)
	})
	return all
}

// layer is a compressed tar and what an image says of it.
type layer struct {
	blob
	// diffID is the digest of the tar, not compressed; bytes its files' size.
	diffID string
	bytes  int64
}

// pack makes a layer. The same entries make the same bytes: names are sorted, all times are the given one, and no
// name of an owner of the build machine gets in.
func pack(entries []entry, at time.Time) (*layer, error) {
	var compressed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	plain := sha256.New()
	out := tar.NewWriter(io.MultiWriter(plain, zip))
	l := &layer{}
	for _, e := range withParents(entries) {
		n, err := add(out, e, at)
		if err != nil {
			return nil, fmt.Errorf("add %s: %w", e.path, err)
		}
		l.bytes += n
	}
	if err := errors.Join(out.Close(), zip.Close()); err != nil {
		return nil, fmt.Errorf("finish the layer: %w", err)
	}
	l.blob = newBlob(mediaLayer, compressed.Bytes())
	l.diffID = "sha256:" + hex.EncodeToString(plain.Sum(nil))
	return l, nil
}

func add(out *tar.Writer, e entry, at time.Time) (int64, error) {
	data := e.data
	if e.file != "" {
		var err error
		if data, err = os.ReadFile(e.file); err != nil {
			return 0, err
		}
	}
	h := &tar.Header{
		Typeflag: e.kind, Name: e.path, Linkname: e.link, Mode: e.mode, Gid: groupID, ModTime: at, Size: int64(len(data)), Format: tar.FormatUSTAR,
	}
	if e.kind == tar.TypeDir {
		h.Name += "/"
	}
	if e.owned {
		h.Uid = userID
	}
	if err := out.WriteHeader(h); err != nil {
		return 0, err
	}
	_, err := out.Write(data)
	return int64(len(data)), err
}
