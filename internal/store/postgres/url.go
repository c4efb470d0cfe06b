package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// poolConnections is the size of the pool unless the URL says pool_max_conns: readiness asks with one, and one is spare.
const poolConnections = 2

// maxPasswordFile bounds the file of the password.
const maxPasswordFile = 4096

// parseURL understands what pgx does: postgres:// and postgresql:// with any number of hosts, its parameters, and the
// PG* variables. What is not said is set so that only a server that takes writes is accepted.
func parseURL(raw string, opts Options) (*pgxpool.Config, error) {
	if !strings.HasPrefix(raw, "postgres://") && !strings.HasPrefix(raw, "postgresql://") {
		return nil, errors.New("database URL: the scheme must be postgres:// or postgresql://")
	}
	cfg, err := pgxpool.ParseConfig(raw)
	if err != nil {
		// The whole error quotes the URL, which may hold a password.
		return nil, fmt.Errorf("parse database URL: %s; write postgres://USER@HOST[:PORT]/DATABASE[?PARAMETER=VALUE]", reason(err))
	}
	if !strings.Contains(raw, "pool_max_conns") {
		cfg.MaxConns = poolConnections
	}
	cfg.MinConns = 0
	c := &cfg.ConnConfig.Config
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	dialer := &net.Dialer{
		Timeout:         connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	c.DialFunc = dialer.DialContext
	if c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if opts.PasswordFile != "" {
		if _, err := readPassword(opts.PasswordFile); err != nil {
			return nil, err
		}
		cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) (err error) {
			c.Password, err = readPassword(opts.PasswordFile)
			return err
		}
	}
	return cfg, nil
}

// reason is the innermost text of an error, which no URL is in.
func reason(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			break
		}
		err = next
	}
	text := err.Error()
	if strings.Contains(text, "://") {
		return "it is not well-formed"
	}
	return text
}

func readPassword(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the database password: %w", err)
	}
	raw = bytes.TrimRight(raw, "\r\n")
	if len(raw) == 0 || len(raw) > maxPasswordFile {
		return "", fmt.Errorf("the database password in %s has %d bytes; write one line of 1 to %d", path, len(raw), maxPasswordFile)
	}
	return string(raw), nil
}

// describe names a database for people.
func describe(cfg *pgxpool.Config) string {
	c := cfg.ConnConfig
	hosts := []string{hostPort(c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if h := hostPort(f.Host, f.Port); h != hosts[len(hosts)-1] {
			hosts = append(hosts, h)
		}
	}
	return fmt.Sprintf("%q on %s", c.Database, strings.Join(hosts, ", "))
}

func hostPort(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
