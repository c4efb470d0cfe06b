// Package backup makes copies of what a gateway cannot be without, the database and the keys that belong to it, and puts
// them back. It knows files, checksums and the age format; what the files mean, and where a gateway keeps them, its caller
// says. It never replaces anything.
package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Format is the version of the layout that this package writes and reads.
const Format = 1

const (
	manifestName = "manifest.json"
	databaseName = "database.db"
	maxManifest  = 16 << 20
	maxEntries   = 100_000
)

// Manifest is what a backup holds. It is the first file of an archive.
type Manifest struct {
	Format int `json:"format"`
	// Product and Version are of the program that made the backup.
	Product string    `json:"product"`
	Version string    `json:"version"`
	Gateway string    `json:"gateway_id,omitempty"`
	Created time.Time `json:"created"`
	// Database tells of the copy of the database, or why there is none.
	Database Database `json:"database"`
	Entries  []Entry  `json:"files"`
	// Missing names what the gateway uses and the backup does not hold.
	Missing []string `json:"missing,omitempty"`
}

// Database is the copy of the database. Kind is "sqlite", or "postgresql", which is to be dumped by its own tools.
type Database struct {
	Kind     string `json:"kind"`
	Schema   int64  `json:"schema,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
	Objects  int64  `json:"objects,omitempty"`
}

// Entry is one file.
type Entry struct {
	// Name is the path inside the backup, with slashes.
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// encode writes the manifest, and returns its digest.
func (m *Manifest) encode() (data []byte, digest string, err error) {
	data, err = json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, "", fmt.Errorf("write the manifest: %w", err)
	}
	data = append(data, '\n')
	return data, digestOf(data), nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// parseManifest reads a manifest, and refuses what this program cannot restore or must not.
func parseManifest(data []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if m.Format != Format {
		return nil, fmt.Errorf("the backup has format %d, this program reads %d; use the program that wrote it (%s %s)", m.Format, Format, m.Product, m.Version)
	}
	if len(m.Entries) > maxEntries {
		return nil, errors.New("the manifest lists too many files")
	}
	seen := map[string]bool{manifestName: true}
	for _, e := range m.Entries {
		if !goodName(e.Name) || seen[e.Name] || e.Size < 0 || len(e.SHA256) != 2*sha256.Size {
			return nil, fmt.Errorf("the manifest has an unusable entry %q", e.Name)
		}
		seen[e.Name] = true
	}
	if has := slices.ContainsFunc(m.Entries, func(e Entry) bool { return e.Name == databaseName }); has != (m.Database.Kind == "sqlite") {
		return nil, errors.New("the manifest and its list of files do not agree about the database")
	}
	return m, nil
}

// goodName admits a plain name, alone or in one folder, that stays inside of where it is put.
func goodName(name string) bool {
	if !fs.ValidPath(name) || path.Clean(name) != name || strings.Count(name, "/") > 1 || len(name) > 512 {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || strings.HasPrefix(part, ".") || strings.ContainsAny(part, "\\\x00:") {
			return false
		}
	}
	return true
}
