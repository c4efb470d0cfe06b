package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Database is how the store is reached.
type Database struct {
	// PasswordFile holds the password for PostgreSQL; empty leaves that to the URL and the environment.
	PasswordFile string
	// LeaseWait is how long to wait for another owner of a PostgreSQL database to end; 0 is not at all.
	LeaseWait time.Duration
}

// IsPostgres reports whether a database URL names a PostgreSQL database.
func IsPostgres(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

func (c *Config) database(v *values) {
	c.DatabaseURL = v.text("db-url")
	c.StateDir = v.text("state-dir")
	c.Database = Database{
		PasswordFile: v.text("db-password-file"), LeaseWait: time.Duration(v.number("db-lease-wait-secs")) * time.Second,
	}
	if c.DatabaseURL == "" {
		dir, err := stateHome(v.env)
		if err != nil {
			v.fail("db-url", fmt.Sprintf("--db-url is not set and no state directory can be found: %v", err), "set --db-url")
			return
		}
		c.DatabaseURL = "sqlite:" + filepath.Join(dir, "openshell", "gateway", "openshell.db")
		v.derive("db-url", c.DatabaseURL, "the state directory")
	}
	path, sqlite := strings.CutPrefix(c.DatabaseURL, "sqlite:")
	switch {
	case sqlite:
		c.sqlite(v, path)
	case IsPostgres(c.DatabaseURL):
		c.postgres(v)
	default:
		v.fail("db-url", "unsupported database URL scheme in --db-url", "write sqlite:PATH or postgres://USER@HOST/DATABASE")
		return
	}
	if c.StateDir != "" {
		v.derive("sandbox-key-dir", filepath.Join(c.StateDir, "sandbox-keys"), "beside the database")
		v.derive("audit-dir", filepath.Join(c.StateDir, "audit"), "beside the database")
	}
}

func (c *Config) sqlite(v *values, path string) {
	for _, name := range []string{"db-password-file", "db-lease-wait-secs"} {
		if v.set(name) {
			v.warn("%s has no effect with SQLite", v.said(name))
		}
	}
	path, _, _ = strings.Cut(strings.TrimPrefix(path, "//"), "?")
	if path == "" || path == ":memory:" {
		v.warn("the database is in memory: everything is lost when the gateway stops")
		return
	}
	if c.StateDir == "" {
		c.StateDir = filepath.Dir(path)
		v.derive("state-dir", c.StateDir, "beside the database")
	}
}

// postgres needs a folder all the same: keys are never in the database that they protect.
func (c *Config) postgres(v *values) {
	if hasPassword(c.DatabaseURL) && v.origin["db-url"].text == "--db-url" {
		v.warn("--db-url holds a password, which others on this machine may see; use OPENSHELL_DB_URL or --db-password-file")
	}
	if c.StateDir != "" {
		return
	}
	dir, err := stateHome(v.env)
	if err != nil {
		v.fail("state-dir", fmt.Sprintf("PostgreSQL keeps no keys, and no folder for them can be found: %v", err), "set --state-dir")
		return
	}
	c.StateDir = filepath.Join(dir, "openshell", "gateway")
	v.derive("state-dir", c.StateDir, "the state directory")
}

var (
	// userPart is what stands before the last @ of a URL's authority; a URL with several hosts is not one that the
	// standard library reads.
	userPart = regexp.MustCompile(`^([a-z]+://[^:/?#]*):(.*)@`)
	// secretParameter is a parameter whose value is secret.
	secretParameter = regexp.MustCompile(`(?i)([?&](?:ssl)?password=)[^&#]*`)
)

func hasPassword(raw string) bool { return withoutPassword(raw) != raw }

// withoutPassword masks the passwords of a database URL, well-formed or not: rather too much than too little.
func withoutPassword(raw string) string {
	raw = secretParameter.ReplaceAllString(raw, "${1}"+mask)
	if m := userPart.FindStringSubmatchIndex(raw); m != nil {
		return raw[:m[3]] + ":" + mask + raw[m[5]:]
	}
	if u, err := url.Parse(raw); err != nil && !strings.HasPrefix(raw, "sqlite:") || u != nil && u.User != nil && hasSecret(u) {
		scheme, _, _ := strings.Cut(raw, "://")
		return scheme + "://" + mask
	}
	return raw
}

func hasSecret(u *url.URL) bool {
	_, has := u.User.Password()
	return has
}
