package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/sallyport/internal/pause"
	"sallyport.dev/sallyport/internal/store"
)

// lockClass is the first half of the advisory lock's key; the second is the object id of the schema.
const lockClass int32 = 0x53414c59

// acquireLease makes the first session. It waits, as long as is allowed, for an earlier owner to end, and as long for a
// server that starts, fails over or has no connection to spare.
func (d *DB) acquireLease(ctx context.Context) error {
	deadline := time.Now().Add(d.opts.LeaseWait)
	for told := false; ; told = true {
		err := d.becomeOwner(ctx, deadline)
		if err == nil || !passing(err) || !time.Now().Before(deadline) {
			return err
		}
		if !told {
			d.opts.Logger.Warn("the database is not there yet; waiting for it", "database", d.name, "wait", d.opts.LeaseWait.String(), "error", err)
		}
		if d.session != nil {
			_ = d.session.close() // It failed.
			d.session = nil
		}
		if !pause.For(ctx, min(retryPause, time.Until(deadline))) {
			return ctx.Err()
		}
	}
}

// becomeOwner takes the lock, migrates, and writes down who has the database now.
func (d *DB) becomeOwner(ctx context.Context, deadline time.Time) error {
	s, err := d.connect(ctx)
	if err != nil {
		return err
	}
	d.session = s // Close ends it, whatever comes.
	if err := d.checkPooler(ctx, s); err != nil {
		return err
	}
	if d.schema, err = d.findSchema(ctx, s); err != nil {
		return err
	}
	if err := useSchema(ctx, s.conn, d.schema.name); err != nil {
		return err
	}
	d.name = fmt.Sprintf("%s, schema %q", describe(d.cfg), d.schema.name)
	if words, enough := s.privacy(); !enough {
		d.opts.Logger.Warn("the way to the database is not protected; set sslmode=verify-full and sslrootcert in its URL", "database", d.name, "connection", words)
	}
	if err := d.lock(ctx, s, deadline); err != nil {
		return err
	}
	if err := d.migrate(ctx, s); err != nil {
		return err
	}
	var revision int64
	if err := s.conn.QueryRow(ctx, `UPDATE store_meta SET epoch = epoch + 1, epoch_revision = revision, owner_id = $1,
		owner_name = $2, owner_since = now() WHERE id = 1 RETURNING epoch, revision`, d.instance, d.opts.Name).
		Scan(&d.epoch, &revision); err != nil {
		return fmt.Errorf("become the owner: %w", err)
	}
	d.acked = uint64(revision)
	d.connected.Store(true)
	return nil
}

// findSchema returns the schema that new tables go to. It makes it if the URL names one that is not there.
func (d *DB) findSchema(ctx context.Context, s *session) (schemaName, error) {
	name := firstSchema(d.cfg.ConnConfig.RuntimeParams["search_path"])
	if name != "" && s.backend.schema != name {
		if _, err := s.conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS `+pgx.Identifier{name}.Sanitize()); err != nil {
			return schemaName{}, fmt.Errorf("create the schema %q: %w", name, err)
		}
	}
	var found schemaName
	err := s.conn.QueryRow(ctx, `SELECT nspname::text, oid FROM pg_namespace WHERE nspname = current_schema()`).Scan(&found.name, &found.oid)
	if errors.Is(err, pgx.ErrNoRows) {
		return schemaName{}, fmt.Errorf("no schema of its search path (%s) exists and may be used; name one with search_path=SCHEMA in the URL, "+
			"or grant USAGE on it", s.backend.path)
	}
	if err != nil {
		return schemaName{}, fmt.Errorf("find the schema: %w", err)
	}
	return found, nil
}

// lock waits for the advisory lock until the deadline.
func (d *DB) lock(ctx context.Context, s *session, deadline time.Time) error {
	for told := false; ; {
		ok, err := d.tryLock(ctx, s)
		if err != nil || ok {
			return err
		}
		h, err := d.holder(ctx, s)
		if err != nil {
			return err
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("%s owns it; stop that one, or wait for it to end, "+
				"or give this one a database or a schema (search_path=SCHEMA in the URL) of its own: %w", h, store.ErrLeaseLost)
		}
		if !told {
			told = true
			d.opts.Logger.Warn("another process owns the database; waiting for it to end", "database", d.name, "owner", h.String(), "wait", d.opts.LeaseWait.String())
		}
		if !pause.For(ctx, min(retryPause, time.Until(deadline))) {
			return ctx.Err()
		}
	}
}

func (d *DB) tryLock(ctx context.Context, s *session) (ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err = s.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`, lockClass, int32(d.schema.oid)).Scan(&ok)
	if err != nil {
		return false, fmt.Errorf("ask for the lock: %w", err)
	}
	return ok, nil
}

// holder is whoever has the lock.
type holder struct {
	pid         int32
	application string
	address     string
	name        string
	since       time.Time
}

// String names the holder for people.
func (h holder) String() string {
	text := "another process"
	switch {
	case h.name != "":
		text = fmt.Sprintf("the gateway %q", h.name)
	case h.application != "":
		text = fmt.Sprintf("the process %q", h.application)
	}
	if h.address != "" {
		text += " at " + h.address
	}
	if !h.since.IsZero() {
		text += " since " + h.since.UTC().Format(time.RFC3339)
	}
	return text
}

// holder finds out who has the lock: the server's list tells the session, store_meta the name that it gave.
func (d *DB) holder(ctx context.Context, s *session) (h holder, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	// Whoever belongs to another role shows neither application nor address.
	err = s.conn.QueryRow(ctx, `SELECT l.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), ''), coalesce(a.backend_start, 'epoch')
		FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.classid = $1::int::oid AND l.objid = $2 AND l.objsubid = 2 AND l.granted
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`, lockClass, d.schema.oid).
		Scan(&h.pid, &h.application, &h.address, &h.since)
	if errors.Is(err, pgx.ErrNoRows) {
		return h, nil // It went this moment.
	}
	if err != nil {
		return h, fmt.Errorf("ask who holds the lock: %w", err)
	}
	var since time.Time
	err = s.conn.QueryRow(ctx, `SELECT owner_name, owner_since FROM store_meta WHERE id = 1`).Scan(&h.name, &since)
	if code := codeOf(err); code == codeNoTable || code == codePrivilege || errors.Is(err, pgx.ErrNoRows) {
		return h, nil // It has not come that far.
	}
	return h, err
}

// resume makes a session again after one was lost, takes the lock back and raises the epoch. What it finds in
// store_meta tells whether another process came in between, and what became of a batch whose commit was cut off.
func (d *DB) resume(ctx context.Context) error {
	if err := d.Err(); err != nil {
		return err
	}
	s, err := d.connect(ctx)
	if err == nil {
		if err = d.takeBack(ctx, s); err == nil {
			d.session, d.why = s, nil
			d.connected.Store(true)
			d.reconnects.Add(1)
			d.opts.Logger.Info("connected to the database again", "database", d.name, "outage", time.Since(d.since).Round(time.Millisecond).String())
			return nil
		}
		err = errors.Join(err, s.close())
	}
	d.why = classify(err)
	return d.why
}

func (d *DB) takeBack(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, 2*queryTimeout)
	defer cancel()
	for {
		ok, err := d.tryLock(ctx, s)
		if err != nil {
			return err
		}
		if ok {
			break
		}
		if err := d.evict(ctx, s); err != nil {
			return err
		}
		if !pause.For(ctx, retryPause/4) {
			return fmt.Errorf("another session holds the lock: %w", ctx.Err())
		}
	}
	var epoch, revision int64
	err := s.conn.QueryRow(ctx, `UPDATE store_meta SET epoch = greatest(epoch, $1) + 1, epoch_revision = revision
		WHERE id = 1 AND owner_id = $2 RETURNING epoch, revision`, d.epoch, d.instance).Scan(&epoch, &revision)
	if errors.Is(err, pgx.ErrNoRows) {
		return d.superseded(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("raise the epoch: %w", err)
	}
	return d.compare(epoch, uint64(revision))
}

// evict ends a session of this very process that the server still believes in, and looks whether another process has
// become the owner while nobody held the lock.
func (d *DB) evict(ctx context.Context, s *session) error {
	if _, err := s.conn.Exec(ctx, `SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.classid = $1::int::oid AND l.objid = $2 AND l.objsubid = 2 AND l.granted
		AND a.datname = current_database() AND a.application_name = $3`, lockClass, d.schema.oid, d.application()); err != nil {
		return fmt.Errorf("end an earlier session: %w", err)
	}
	var owner string
	if err := s.conn.QueryRow(ctx, `SELECT owner_id FROM store_meta WHERE id = 1`).Scan(&owner); err != nil {
		return fmt.Errorf("ask for the owner: %w", err)
	}
	if owner != d.instance {
		return d.superseded(ctx, s)
	}
	return nil
}

// superseded ends this owner's time. If only one other came since, the revision that it began with tells the outcome of
// a pending batch.
func (d *DB) superseded(ctx context.Context, s *session) error {
	var (
		name                     string
		since                    time.Time
		epoch, began, compatible int64
	)
	if err := s.conn.QueryRow(ctx, `SELECT owner_name, owner_since, epoch, epoch_revision, compatible_from FROM store_meta WHERE id = 1`).
		Scan(&name, &since, &epoch, &began, &compatible); err != nil {
		return fmt.Errorf("ask for the new owner: %w", err)
	}
	if p := d.pending; p != nil && !p.known && epoch == d.epoch+1 {
		p.known, p.committed = true, uint64(began) >= p.revision
	}
	return d.fail(fmt.Errorf("the gateway %q took database %s at %s; end this one: %w", name, d.name, since.UTC().Format(time.RFC3339), store.ErrLeaseLost))
}

// compare judges what the database has after a loss of the session: the last commit that is known, or the pending one.
// Anything else means that commits were lost, as with a standby that was promoted before it had them.
func (d *DB) compare(epoch int64, revision uint64) error {
	p := d.pending
	waits := p != nil && !p.known
	switch {
	case waits && revision == p.revision:
		p.known, p.committed = true, true
		d.acked = revision
	case revision == d.acked:
		if waits {
			p.known = true
		}
	case revision > d.acked:
		return d.fail(fmt.Errorf("database %s is at revision %d, which somebody else must have written in this gateway's name, for it only wrote %d; "+
			"the gateway must start again with what is there: %w", d.name, revision, d.acked, store.ErrDiverged))
	default:
		return d.fail(fmt.Errorf("database %s is at revision %d, but had confirmed %d: it lost writes, as after a failover to a standby "+
			"that did not have them; the gateway must start again with what is there: %w", d.name, revision, d.acked, store.ErrDiverged))
	}
	d.epoch = epoch
	return nil
}

// drop gives the session up after an error of it.
func (d *DB) drop(err error) {
	if d.session == nil {
		return
	}
	d.connected.Store(false)
	_ = d.session.close() // It is of no use any more.
	d.session, d.since, d.why = nil, time.Now(), classify(err)
	d.opts.Logger.Warn("the connection to the database was lost", "database", d.name, "error", err)
}

// current returns the session, making it again while there is time. In a longer outage callers are not kept waiting:
// the keeper goes on trying.
func (d *DB) current(ctx context.Context) (*session, error) {
	for {
		if err := d.Err(); err != nil {
			return nil, err
		}
		if d.session != nil {
			return d.session, nil
		}
		left := d.opts.OutageWait - time.Since(d.since)
		if left <= 0 {
			return nil, d.unavailable()
		}
		attempt, cancel := context.WithTimeout(ctx, left)
		err := d.resume(attempt)
		more := err != nil && pause.For(attempt, retryPause)
		cancel()
		if err != nil && !more {
			return nil, d.unavailable()
		}
	}
}

// unavailable says why there is no session, as an error after which a later write may succeed unless it says otherwise.
func (d *DB) unavailable() error {
	if already(d.why) {
		return d.why
	}
	return fmt.Errorf("%w (%w)", store.ErrUnreachable, d.why)
}

// keep looks after the session while nobody writes: it notices a loss, makes the session again, and finds out when
// another process has become the owner.
func (d *DB) keep(ctx context.Context) {
	for {
		wait := d.opts.Heartbeat
		if !d.connected.Load() {
			wait = min(wait, time.Second)
		}
		if !pause.For(ctx, wait) {
			return
		}
		select {
		case <-d.lost:
			return
		default:
		}
		if d.acquire(ctx) != nil {
			return
		}
		d.beat(ctx)
		d.release()
	}
}

func (d *DB) beat(ctx context.Context) {
	if d.session == nil {
		if err := d.resume(ctx); err != nil && ctx.Err() == nil {
			d.opts.Logger.Debug("the database is still away", "database", d.name, "error", err)
		}
		return
	}
	// A context that ends would end the session with it: only time may.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*queryTimeout)
	defer cancel()
	var mine bool
	err := d.session.conn.QueryRow(bounded, `SELECT epoch = $1 AND owner_id = $2 AND revision = $3 AND pg_backend_pid() = $4 AND NOT pg_is_in_recovery()
		FROM store_meta WHERE id = 1`, d.epoch, d.instance, int64(d.acked), d.session.pid).Scan(&mine)
	switch {
	case err != nil:
		d.drop(err)
	case !mine:
		d.drop(errors.New("somebody else wrote, or the session moved"))
	}
}
