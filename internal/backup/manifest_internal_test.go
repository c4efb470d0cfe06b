package backup

import (
	"path/filepath"
	"strings"
	"testing"
)

// FuzzManifest parses what somebody else wrote: names that are accepted stay inside of where they are put.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"database":{"kind":"postgresql"},"files":[{"name":"state/a","size":1,"sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"format":1,"database":{"kind":"sqlite"},"files":[{"name":"database.db","size":1,"sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"format":1,"database":{"kind":"postgresql"},"files":[{"name":"../a","size":1,"sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		for _, e := range m.Entries {
			at := filepath.Join("/x", filepath.FromSlash(e.Name))
			if !strings.HasPrefix(at, "/x/") || e.Size < 0 || e.Name == manifestName || strings.Count(e.Name, "/") > 1 {
				t.Fatalf("accepts %q", e.Name)
			}
		}
	})
}
