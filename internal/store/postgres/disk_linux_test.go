package postgres_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"sallyport.dev/sallyport/internal/store"
)

// TestRealDiskFull puts a database on a small file system and fills it: the write that does not fit fails and leaves no
// trace, the next one after somebody made room succeeds.
func TestRealDiskFull(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	dir := s.Folder("small")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=0777"); err != nil {
		t.Skipf("NOT PROVEN on a full disk: no file system can be mounted here: %v", err)
	}
	// The server ends after this, and has nothing open below a lazily unmounted folder that matters.
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := s.Own(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec("postgres", `CREATE TABLESPACE small LOCATION '`+dir+`'`, `CREATE DATABASE small TABLESPACE small`); err != nil {
		t.Fatal(err)
	}
	opts := patient()
	opts.Logger = logTo(t)
	st := openStore(t, s.URL("small"), opts)
	var err error
	written := 0
	for ; err == nil && written < 100; written++ {
		o := object(fmt.Sprint(written))
		o.Payload = make([]byte, 1<<20)
		rand.Read(o.Payload)
		_, err = st.Write(t.Context(), store.Create(o))
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("after %d MiB: %v", written, err)
	}
	same(t, st, s, "small")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	create(t, st, "after")
	same(t, st, s, "small")
}
