package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Media types of the OCI image format.
const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// annotationName is where containerd looks for the whole reference of an image; annotationRef is the OCI format's own.
const (
	annotationName = "io.containerd.image.name"
	annotationRef  = "org.opencontainers.image.ref.name"
)

// blob is content that is found by its digest.
type blob struct {
	mediaType, digest string
	data              []byte
}

func newBlob(mediaType string, data []byte) blob {
	sum := sha256.Sum256(data)
	return blob{mediaType: mediaType, digest: "sha256:" + hex.EncodeToString(sum[:]), data: data}
}

func jsonBlob(mediaType string, v any) (blob, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return blob{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	return newBlob(mediaType, data), nil
}

func (b blob) path() string { return "blobs/sha256/" + strings.TrimPrefix(b.digest, "sha256:") }

func (b blob) descriptor() descriptor {
	return descriptor{MediaType: b.mediaType, Digest: b.digest, Size: int64(len(b.data))}
}

// descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// platform is an operating system and an architecture, in Go's words, which are those of the format too.
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
}

func (p platform) String() string { return p.OS + "/" + p.Architecture }

// file is the platform as a part of a file's name.
func (p platform) file() string { return p.OS + "-" + p.Architecture }

// index lists manifests.
type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// manifest is one image of one platform.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// config is how an image is run.
type config struct {
	Created time.Time `json:"created"`
	platform
	Config  runConfig `json:"config"`
	RootFS  rootFS    `json:"rootfs"`
	History []history `json:"history"`
}

type runConfig struct {
	User         string              `json:"User"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env"`
	Entrypoint   []string            `json:"Entrypoint"`
	WorkingDir   string              `json:"WorkingDir"`
	Labels       map[string]string   `json:"Labels"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// dockerEntry is what older engines read instead of the index.
type dockerEntry struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// built is an image of one platform with all its blobs.
type built struct {
	platform platform
	manifest blob
	config   blob
	layers   []*layer
}

// compose makes the manifest and the configuration of an image from its layers.
func compose(i image, p platform, o options, layers []*layer, comments []string) (*built, error) {
	labels := o.labels(i)
	c := config{
		Created: o.created, platform: p,
		Config: runConfig{
			User: fmt.Sprintf("%d:%d", userID, groupID), Entrypoint: []string{"/" + binDir + "/" + i.program}, WorkingDir: "/", Labels: labels,
			Env: []string{"PATH=/" + binDir, "HOME=" + i.home}, ExposedPorts: map[string]struct{}{},
		},
		RootFS: rootFS{Type: "layers"},
	}
	for _, port := range i.ports {
		c.Config.ExposedPorts[port] = struct{}{}
	}
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest, Annotations: labels}
	for n, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.diffID)
		c.History = append(c.History, history{Created: o.created, CreatedBy: comments[n]})
		m.Layers = append(m.Layers, l.descriptor())
	}
	configured, err := jsonBlob(mediaConfig, c)
	if err != nil {
		return nil, err
	}
	m.Config = configured.descriptor()
	whole, err := jsonBlob(mediaManifest, m)
	if err != nil {
		return nil, err
	}
	return &built{platform: p, manifest: whole, config: configured, layers: layers}, nil
}

// bytes is the size of all files of the image.
func (b *built) bytes() int64 {
	var n int64
	for _, l := range b.layers {
		n += l.bytes
	}
	return n
}

// archive writes an OCI archive with an image for each platform, which engines that know only Docker's own format
// read too. It returns the digest under which a registry would have it.
func archive(file string, references []string, labels map[string]string, images []*built, at time.Time) (digest string, err error) {
	top := images[0].manifest.descriptor()
	top.Platform = &images[0].platform
	blobs := []blob{}
	for _, i := range images {
		blobs = append(blobs, i.manifest, i.config)
		for _, l := range i.layers {
			blobs = append(blobs, l.blob)
		}
	}
	if len(images) > 1 {
		list := index{SchemaVersion: 2, MediaType: mediaIndex, Annotations: labels}
		for _, i := range images {
			d := i.manifest.descriptor()
			d.Platform = &i.platform
			list.Manifests = append(list.Manifests, d)
		}
		whole, err := jsonBlob(mediaIndex, list)
		if err != nil {
			return "", err
		}
		blobs = append(blobs, whole)
		top = whole.descriptor()
	}
	entry := index{SchemaVersion: 2, MediaType: mediaIndex}
	docker := dockerEntry{Config: images[0].config.path(), RepoTags: references}
	for _, reference := range references {
		named := top
		named.Annotations = map[string]string{annotationName: normalised(reference), annotationRef: reference[strings.LastIndex(reference, ":")+1:]}
		entry.Manifests = append(entry.Manifests, named)
	}
	for _, l := range images[0].layers {
		docker.Layers = append(docker.Layers, l.path())
	}
	list, err := json.Marshal(entry)
	if err != nil {
		return "", fmt.Errorf("encode the index: %w", err)
	}
	old, err := json.Marshal([]dockerEntry{docker})
	if err != nil {
		return "", fmt.Errorf("encode the manifest of older engines: %w", err)
	}
	files := []entryFile{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", list}, {"manifest.json", old}}
	return top.Digest, writeArchive(file, files, blobs, at)
}

type entryFile struct {
	name string
	data []byte
}

// writeArchive puts a whole file in place, or leaves what was there.
func writeArchive(file string, files []entryFile, blobs []blob, at time.Time) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	slices.SortFunc(blobs, func(a, b blob) int { return strings.Compare(a.digest, b.digest) })
	// Layers that images share are there once.
	blobs = slices.CompactFunc(blobs, func(a, b blob) bool { return a.digest == b.digest })
	for _, b := range blobs {
		files = append(files, entryFile{b.path(), b.data})
	}
	out := tar.NewWriter(f)
	for _, folder := range []string{"blobs/", "blobs/sha256/"} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755, ModTime: at, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
	}
	for _, e := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: 0o644, Size: int64(len(e.data)), ModTime: at, Format: tar.FormatUSTAR}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := out.Write(e.data); err != nil {
			return err
		}
	}
	if err := errors.Join(out.Close(), f.Chmod(0o644), f.Sync()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	return f.Close()
}

// normalised is a reference with its registry, as containerd and kubelets write it.
func normalised(reference string) string {
	first, _, ok := strings.Cut(reference, "/")
	if ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return reference
	}
	return "docker.io/" + reference
}

// digestOf is the digest of a stream.
func digestOf(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
