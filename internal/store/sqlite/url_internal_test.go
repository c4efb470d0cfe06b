package sqlite

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]location{
		"sqlite:gateway.db":                      {path: "gateway.db", create: true},
		"sqlite:dir/gateway.db":                  {path: "dir/gateway.db", create: true},
		"sqlite:/abs/gateway.db":                 {path: "/abs/gateway.db", create: true},
		"sqlite://gateway.db":                    {path: "gateway.db", create: true},
		"sqlite:///abs/gateway.db":               {path: "/abs/gateway.db", create: true},
		"sqlite:///abs/gateway.db?mode=rwc":      {path: "/abs/gateway.db", create: true},
		"sqlite:gateway.db?mode=rw&cache=shared": {path: "gateway.db"},
		"sqlite:a%20b%3Fc.db":                    {path: "a b?c.db", create: true},
		"sqlite::memory:":                        {},
		"sqlite://:memory:?cache=shared":         {},
		"sqlite:name?mode=memory":                {},
	} {
		got, err := parseURL(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(location{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", raw, diff)
		}
	}
	for raw, want := range map[string]string{
		"":                             "unsupported database URL scheme",
		"gateway.db":                   "unsupported database URL scheme",
		"postgres://user:secret@db/x":  `unsupported database URL scheme "postgres"`,
		"SQLITE:gateway.db":            `unsupported database URL scheme "SQLITE"`,
		"sqlite3:gateway.db":           `unsupported database URL scheme "sqlite3"`,
		"sqlite:":                      "names no file",
		"sqlite://":                    "names no file",
		"sqlite:gateway.db?mode=ro":    "mode=ro",
		"sqlite:gateway.db?vfs=other":  "vfs=other",
		"sqlite:gateway.db?_pragma=x":  "_pragma=x",
		"sqlite:%zz":                   "parse database URL",
		"sqlite:gateway.db?mode=%zz":   "parse database URL",
		"sqlite:gateway.db?cache=none": "cache=none",
	} {
		_, err := parseURL(raw)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error shows the password", raw)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("sqlite:///abs/gateway.db?mode=rwc")
	f.Add("sqlite::memory:")
	f.Add("postgres://x")
	f.Fuzz(func(t *testing.T, raw string) {
		loc, err := parseURL(raw)
		if err == nil && !strings.HasPrefix(raw, "sqlite:") {
			t.Errorf("%q was accepted", raw)
		}
		if dsn := loc.dsn(); err == nil && strings.Count(dsn, "?") != 1 {
			t.Errorf("%q became %q", raw, dsn)
		}
	})
}
