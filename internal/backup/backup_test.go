package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"sallyport.dev/sallyport/internal/backup"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

// home is a state directory with a database that is open, and a key.
type home struct {
	dir, database, key string
	store              *store.Store
}

func open(t *testing.T, objects int) *home {
	t.Helper()
	h := &home{dir: t.TempDir()}
	h.database, h.key = filepath.Join(h.dir, "x.db"), filepath.Join(h.dir, "credential.key")
	h.reopen(t)
	for i := range objects {
		h.write(t, fmt.Sprint("o", i))
	}
	if err := os.WriteFile(h.key, bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *home) reopen(t *testing.T) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), "sqlite:"+h.database)
	if err != nil {
		t.Fatal(err)
	}
	if h.store, err = store.Open(t.Context(), db, store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.store.Close() })
}

func (h *home) write(t *testing.T, id string) {
	t.Helper()
	if _, err := h.store.Write(context.Background(), store.Create(&store.Object{Kind: "k", ID: id, Name: id, Payload: bytes.Repeat([]byte("x"), 2000)})); err != nil {
		t.Error(err)
	}
}

func (h *home) source() backup.Source {
	return backup.Source{
		Database: h.database, Version: "1", Gateway: "g", Files: []backup.File{{"state/credential.key", h.key}},
		Now: func() time.Time { return time.Unix(1_700_000_000, 0) },
	}
}

func (h *home) target() backup.Target {
	return backup.Target{Database: h.database, Files: map[string]string{"state/credential.key": h.key}, Folders: map[string]string{"sandbox-keys": filepath.Join(h.dir, "keys")}}
}

// empty is a place to restore to.
func empty(t *testing.T) *home {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	return &home{dir: dir, database: filepath.Join(dir, "x.db"), key: filepath.Join(dir, "credential.key")}
}

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, recipients := range map[string][]age.Recipient{"folder": nil, "b.tar": nil, "b.tar.age": {identity.Recipient()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, 100)
			to := filepath.Join(t.TempDir(), name)
			m, digest, err := backup.Write(t.Context(), to, h.source(), recipients)
			if err != nil || m.Database.Objects != 100 || len(m.Entries) != 2 || len(digest) != 64 {
				t.Fatalf("%+v %s %v", m, digest, err)
			}
			if info, err := os.Stat(to); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%v %v", info.Mode(), err)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(to), ".sallyport-*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			if data, err := os.ReadFile(to); recipients != nil && (err != nil || bytes.Contains(data, bytes.Repeat([]byte{7}, 32)) || bytes.Contains(data, []byte("manifest"))) {
				t.Error("the archive is not encrypted")
			}
			o := backup.Options{Digest: strings.ToUpper(digest)}
			if recipients != nil {
				if _, err := backup.Restore(t.Context(), to, empty(t).target(), o); err == nil || !strings.Contains(err.Error(), "encrypted") {
					t.Errorf("without an identity: %v", err)
				}
				o.Identities = []age.Identity{identity}
			}
			next := empty(t)
			verify := o
			verify.VerifyOnly = true
			if _, err := backup.Restore(t.Context(), to, next.target(), verify); err != nil {
				t.Errorf("verify: %v", err)
			}
			if _, err := os.Stat(next.database); err == nil {
				t.Error("verifying wrote")
			}
			if _, err := backup.Restore(t.Context(), to, next.target(), o); err != nil {
				t.Fatal(err)
			}
			if key, err := os.ReadFile(next.key); err != nil || !bytes.Equal(key, bytes.Repeat([]byte{7}, 32)) {
				t.Errorf("the key: %v", err)
			}
			next.reopen(t)
			if n := next.store.Count("k"); n != 100 {
				t.Errorf("%d objects", n)
			}
			if left, _ := filepath.Glob(filepath.Join(next.dir, ".sallyport-*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			// Again: nothing is replaced.
			if _, err := backup.Restore(t.Context(), to, next.target(), o); err == nil || !strings.Contains(err.Error(), "is there already") {
				t.Errorf("over a database: %v", err)
			}
			if _, _, err := backup.Write(t.Context(), to, h.source(), recipients); err == nil || !strings.Contains(err.Error(), "is there already") {
				t.Errorf("over a backup: %v", err)
			}
		})
	}
}

func TestACopyUnderLoadIsWhole(t *testing.T) {
	t.Parallel()
	h := open(t, 1)
	stop := make(chan struct{})
	done := make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- i
				return
			default:
				h.write(t, fmt.Sprint("w", i))
			}
		}
	}()
	for n := range 5 {
		before := h.store.Count("k")
		m, _, err := backup.Write(t.Context(), filepath.Join(t.TempDir(), fmt.Sprint(n)), h.source(), nil)
		after := h.store.Count("k")
		if err != nil || m.Database.Objects < int64(before) || m.Database.Objects > int64(after) {
			t.Errorf("%d objects, there were %d before and %d after: %v", m.Database.Objects, before, after, err)
		}
	}
	close(stop)
	<-done
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	h := open(t, 10)
	whole := filepath.Join(t.TempDir(), "whole")
	if _, _, err := backup.Write(t.Context(), whole, h.source(), nil); err != nil {
		t.Fatal(err)
	}
	flip := func(path string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(path string, change func(m map[string]any)) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]any{}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		if data, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := func(m map[string]any) map[string]any { return m["files"].([]any)[1].(map[string]any) }
	for want, damage := range map[string]func(folder string, to *home) backup.Options{
		"database.db is not what": func(f string, _ *home) backup.Options { flip(filepath.Join(f, "database.db")); return backup.Options{} },
		"credential.key is not what": func(f string, _ *home) backup.Options {
			flip(filepath.Join(f, "state/credential.key"))
			return backup.Options{}
		},
		"credential.key is missing": func(f string, _ *home) backup.Options {
			os.Remove(filepath.Join(f, "state/credential.key"))
			return backup.Options{}
		},
		"this is no backup": func(f string, _ *home) backup.Options {
			os.Remove(filepath.Join(f, "manifest.json"))
			return backup.Options{}
		},
		"the manifest is another one": func(string, *home) backup.Options { return backup.Options{Digest: strings.Repeat("0", 64)} },
		"has format 2": func(f string, _ *home) backup.Options {
			edit(f+"/manifest.json", func(m map[string]any) { m["format"] = 2 })
			return backup.Options{}
		},
		`unusable entry "../x"`: func(f string, _ *home) backup.Options {
			edit(f+"/manifest.json", func(m map[string]any) { first(m)["name"] = "../x" })
			return backup.Options{}
		},
		`unusable entry "/etc/x"`: func(f string, _ *home) backup.Options {
			edit(f+"/manifest.json", func(m map[string]any) { first(m)["name"] = "/etc/x" })
			return backup.Options{}
		},
		"not the one that the manifest": func(f string, _ *home) backup.Options {
			edit(f+"/manifest.json", func(m map[string]any) { m["database"].(map[string]any)["objects"] = 11 })
			return backup.Options{}
		},
		"do not agree": func(f string, _ *home) backup.Options {
			edit(f+"/manifest.json", func(m map[string]any) { m["database"].(map[string]any)["kind"] = "postgresql" })
			return backup.Options{}
		},
		"differs from the backup": func(_ string, to *home) backup.Options {
			os.MkdirAll(to.dir, 0o700)
			os.WriteFile(to.key, []byte("other"), 0o600)
			return backup.Options{}
		},
		"x.db-wal is there already": func(_ string, to *home) backup.Options {
			os.MkdirAll(to.dir, 0o700)
			os.WriteFile(to.database+"-wal", nil, 0o600)
			return backup.Options{}
		},
		"name no place": func(_ string, to *home) backup.Options {
			to.key = ""
			return backup.Options{}
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			folder, to := filepath.Join(t.TempDir(), "b"), empty(t)
			if err := os.CopyFS(folder, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			o := damage(folder, to)
			if _, err := backup.Restore(t.Context(), folder, to.target(), o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			if _, err := os.Stat(to.database); err == nil {
				t.Error("something was restored")
			}
		})
	}
	live := empty(t)
	target := live.target()
	target.Database = ""
	if _, err := backup.Restore(t.Context(), whole, target, backup.Options{}); err == nil || !strings.Contains(err.Error(), "another kind") {
		t.Errorf("to PostgreSQL: %v", err)
	}
	for to, want := range map[string]string{"x.age": "name a recipient", filepath.Join(whole, "x", "y"): "make room"} {
		if _, _, err := backup.Write(t.Context(), to, h.source(), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// TestArchivesOfStrangers unpacks what nobody made with Write.
func TestArchivesOfStrangers(t *testing.T) {
	t.Parallel()
	manifest := `{"format":1,"database":{"kind":"postgresql"},"files":[{"name":"state/a","size":1,"sha256":"` + strings.Repeat("0", 64) + `"}]}`
	type file struct {
		name, content string
		kind          byte
	}
	for want, files := range map[string][]file{
		"does not begin with a manifest": {{"state/a", "x", tar.TypeReg}},
		"does not list so":               {{"manifest.json", manifest, tar.TypeReg}, {"../../etc/passwd", "x", tar.TypeReg}},
		`holds "state/a"`:                {{"manifest.json", manifest, tar.TypeReg}, {"state/a", "xx", tar.TypeReg}},
		`holds "state/a", which`:         {{"manifest.json", manifest, tar.TypeReg}, {"state/a", "", tar.TypeSymlink}},
		"is not what the manifest":       {{"manifest.json", manifest, tar.TypeReg}, {"state/a", "x", tar.TypeReg}},
		"is missing":                     {{"manifest.json", manifest, tar.TypeReg}},
		"read the manifest":              {{"manifest.json", "{", tar.TypeReg}},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, f := range files {
				w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.content)), Typeflag: f.kind, Linkname: "/etc/passwd", Mode: 0o600})
				w.Write([]byte(f.content))
			}
			w.Close()
			archive := filepath.Join(t.TempDir(), "b.tar")
			if err := os.WriteFile(archive, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			to := empty(t).target()
			to.Database = ""
			if _, err := backup.Restore(t.Context(), archive, to, backup.Options{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

func TestALiveDatabaseIsNotReplaced(t *testing.T) {
	t.Parallel()
	h := open(t, 3)
	b := filepath.Join(t.TempDir(), "b")
	if _, _, err := backup.Write(t.Context(), b, h.source(), nil); err != nil {
		t.Fatal(err)
	}
	// Somebody removed the file under a gateway that runs.
	for _, suffix := range []string{"", "-wal", "-shm"} {
		os.Remove(h.database + suffix)
	}
	if _, err := backup.Restore(t.Context(), b, h.target(), backup.Options{}); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("got %v", err)
	}
}
