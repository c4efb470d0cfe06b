package postgres

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestPrivacy(t *testing.T) {
	t.Parallel()
	far, near := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, &net.TCPAddr{IP: net.IPv6loopback}
	for _, c := range []struct {
		server              net.Addr
		encrypted, verified bool
		enough              bool
	}{
		{&net.UnixAddr{}, false, false, true},
		{near, false, false, true},
		{near, true, false, true},
		{far, false, false, false},
		{far, true, false, false},
		{far, true, true, true},
	} {
		if words, enough := privacyOf(c.server, c.encrypted, c.verified); enough != c.enough || words == "" {
			t.Errorf("%+v: %q, %t", c, words, enough)
		}
	}
}

// TestSchemaVersion keeps the constant in step with the files.
func TestSchemaVersion(t *testing.T) {
	t.Parallel()
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != schemaVersion || !strings.HasPrefix(files[len(files)-1].Name(), fmt.Sprintf("%05d_", schemaVersion)) {
		t.Errorf("%d migrations, newest %s, schemaVersion %d", len(files), files[len(files)-1].Name(), schemaVersion)
	}
}

func TestFirstSchema(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"": "", "a": "a", "A": "a", `"A"`: "A", `"a ""b"""`: `a "b"`, "a,b": "a", " a , b": "a", `"$user", public`: "", "pg_catalog": "",
	} {
		if got := firstSchema(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
