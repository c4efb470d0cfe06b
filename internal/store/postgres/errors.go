package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"sallyport.dev/sallyport/internal/store"
)

// SQLSTATE codes by what they mean here: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeUnique           = "23505"
	codeReadOnly         = "25006"
	codeFailed           = "25P02" // in failed transaction
	codePassword         = "28P01"
	codeAuthorization    = "28000"
	codeNoDatabase       = "3D000"
	codeNoSchema         = "3F000"
	codeSerialization    = "40001"
	codeDeadlock         = "40P01"
	codePrivilege        = "42501"
	codeNoTable          = "42P01"
	codeDiskFull         = "53100"
	codeTooMany          = "53300"
	codeLockTimeout      = "55P03"
	codeCanceled         = "57014"
	classLimit           = "54"
	classData            = "22"
	classResources       = "53"
	classIntervention    = "57P"
	classConnection      = "08"
	severityFatal        = "FATAL"
	severityPanic        = "PANIC"
	messageStartupOption = "unsupported startup parameter"
)

func codeOf(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// broken reports whether an error means that the connection is of no use any more.
func broken(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.SeverityUnlocalized == severityFatal || pg.SeverityUnlocalized == severityPanic ||
			strings.HasPrefix(pg.Code, classIntervention) || strings.HasPrefix(pg.Code, classConnection) || pg.Code == codeReadOnly
	}
	return true // A failure that the server did not word is one of the way to it.
}

// ownFailure reports whether an error concerns one transaction of a batch alone: its data cannot be stored.
func ownFailure(err error) bool {
	code := codeOf(err)
	return code == codeUnique || strings.HasPrefix(code, classLimit) || strings.HasPrefix(code, classData)
}

// classify wraps an error with the store's word for it, and with what to do where that is known.
func classify(err error) error {
	if err == nil || already(err) {
		return err
	}
	code := codeOf(err)
	switch {
	case code == codeReadOnly:
		return fmt.Errorf("%w (%w)", store.ErrReadOnly, err)
	case code == codeDiskFull:
		return fmt.Errorf("%w (%w)", store.ErrFull, err)
	case code == codeTooMany:
		return fmt.Errorf("%w: it has no connection to spare; raise max_connections or end other clients (%w)", store.ErrOverloaded, err)
	case code == codeCanceled, code == codeLockTimeout:
		return fmt.Errorf("%w: a statement took longer than its time limit or was cancelled (%w)", store.ErrOverloaded, err)
	case strings.HasPrefix(code, classResources), code == codeSerialization, code == codeDeadlock:
		return fmt.Errorf("%w (%w)", store.ErrOverloaded, err)
	case code == codePassword, code == codeAuthorization:
		return fmt.Errorf("%w: it refuses this user or password; check the role, its password and pg_hba.conf (%w)", store.ErrUnreachable, err)
	case code == codeNoDatabase:
		return fmt.Errorf("%w: it does not exist; create it (%w)", store.ErrUnreachable, err)
	case code == codePrivilege:
		return fmt.Errorf("a privilege is missing; see docs/postgresql.md for those that are needed: %w", err)
	case code != "" && strings.Contains(err.Error(), messageStartupOption):
		return fmt.Errorf("a connection pooler refuses a parameter; connect to the server itself: %w", err)
	case code != "" && !broken(err):
		return err
	case readOnlyHost(err):
		return fmt.Errorf("%w: no host of the URL takes writes (%w)", store.ErrReadOnly, err)
	case code != "", isConnection(err):
		return fmt.Errorf("%w (%w)", store.ErrUnreachable, err)
	}
	return err
}

// passing reports whether a failure to connect may go away without anybody changing a setting.
func passing(err error) bool {
	switch codeOf(err) {
	case codePassword, codeAuthorization, codeNoDatabase:
		return false
	}
	err = classify(err)
	return errors.Is(err, store.ErrUnreachable) || errors.Is(err, store.ErrOverloaded) || errors.Is(err, store.ErrReadOnly)
}

// already reports whether an error has the store's word for it.
func already(err error) bool {
	for _, known := range []error{
		store.ErrUnreachable, store.ErrOverloaded, store.ErrFull, store.ErrReadOnly, store.ErrUnsettled, store.ErrLeaseLost, store.ErrDiverged,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// readOnlyHost recognises the failure of the check that pgx makes for a server that takes writes.
func readOnlyHost(err error) bool { return strings.Contains(err.Error(), "read only connection") }

func isConnection(err error) bool {
	_, network := errors.AsType[net.Error](err)
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	return network || connect || pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "conn closed")
}
