package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Report is what Check found.
type Report struct {
	Database, Schema string
	// Server is its version, for example "15.18".
	Server string
	// SchemaVersion is the newest migration, 0 where there is none yet; KnownVersion that of this program;
	// CompatibleFrom the oldest one whose programs may work on the schema.
	SchemaVersion, KnownVersion, CompatibleFrom int64
	// Owner is whoever has the database open, empty for nobody; LastOwner was the last one to take it, at LastTaken.
	Owner, LastOwner string
	LastTaken        time.Time
	Objects          int64
	Revision         uint64
	// Connection says how the way to the server is protected.
	Connection string
	// RoundTrip is the median time of an answer without work.
	RoundTrip time.Duration
	// Problems keep a gateway from starting or its data from being safe, each with what to do.
	Problems []string
}

// roundTrips is how many answers the median is of.
const roundTrips = 15

// Check looks at a database without becoming its owner or changing anything, while a gateway works on it or not. Its
// error says why nothing could be found out at all.
func Check(ctx context.Context, rawURL string, opts Options) (*Report, error) {
	opts = opts.withDefaults()
	cfg, err := parseURL(rawURL, opts)
	if err != nil {
		return nil, err
	}
	d := &DB{opts: opts, cfg: cfg, instance: "check---", name: describe(cfg)}
	r, err := d.check(ctx)
	if err != nil {
		return nil, fmt.Errorf("check database %s: %w", d, classify(err))
	}
	return r, nil
}

func (d *DB) check(ctx context.Context) (r *Report, err error) {
	s, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r = &Report{Database: d.name, KnownVersion: schemaVersion}
	if err := d.checkPooler(ctx, s); errors.Is(err, errPooler) {
		r.Problems = append(r.Problems, err.Error())
	} else if err != nil {
		return nil, err
	}
	if err := s.conn.QueryRow(ctx, `SHOW server_version`).Scan(&r.Server); err != nil {
		return nil, err
	}
	r.Connection, _ = s.privacy()
	if r.RoundTrip, err = roundTrip(ctx, s); err != nil {
		return nil, err
	}
	if err := s.checkDurability(ctx, r); err != nil {
		return nil, err
	}
	name := firstSchema(d.cfg.ConnConfig.RuntimeParams["search_path"])
	if name != "" && name != s.backend.schema || s.backend.schema == "" {
		r.Schema = name
		return r, d.checkNewSchema(ctx, s, r)
	}
	if d.schema, err = d.findSchema(ctx, s); err != nil {
		return nil, err
	}
	r.Schema = d.schema.name
	return r, d.checkSchema(ctx, s, r)
}

// checkNewSchema looks whether the role may make the schema that is not there.
func (d *DB) checkNewSchema(ctx context.Context, s *session, r *Report) error {
	if r.Schema == "" {
		r.Problems = append(r.Problems, "no schema of the search path exists; name one with search_path=SCHEMA in the URL")
		return nil
	}
	var may bool
	if err := s.conn.QueryRow(ctx, `SELECT has_database_privilege(current_database(), 'CREATE')`).Scan(&may); err != nil {
		return err
	}
	if !may {
		r.Problems = append(r.Problems, fmt.Sprintf("the role may not create the schema %q; create it and grant USAGE and CREATE on it, or grant CREATE on the database", r.Schema))
	}
	return nil
}

func (d *DB) checkSchema(ctx context.Context, s *session, r *Report) error {
	if err := useSchema(ctx, s.conn, d.schema.name); err != nil {
		return err
	}
	h, err := d.holder(ctx, s)
	if err != nil {
		return err
	}
	if h.pid != 0 {
		r.Owner = h.String()
	}
	r.SchemaVersion, r.CompatibleFrom, err = d.storedVersion(ctx, s)
	if err != nil {
		if codeOf(err) != "" && codeOf(err) != codePrivilege {
			return err
		}
		r.Problems = append(r.Problems, err.Error())
		return nil
	}
	if r.SchemaVersion > schemaVersion && r.CompatibleFrom > schemaVersion {
		r.Problems = append(r.Problems, fmt.Sprintf("schema version %d needs a program that knows version %d or later, this one knows %d; use the newer program",
			r.SchemaVersion, r.CompatibleFrom, schemaVersion))
	}
	if r.SchemaVersion < schemaVersion {
		return d.lacks(ctx, s, r, "to bring the schema up to date", `SELECT 'CREATE on schema ' || quote_ident($1) WHERE NOT has_schema_privilege($1, 'CREATE')`, d.schema.name)
	}
	before := len(r.Problems)
	if err := d.lacks(ctx, s, r, "to serve", `SELECT p || ' on ' || t FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p, unnest(ARRAY['objects', 'store_meta']) t
		WHERE NOT (t = 'store_meta' AND p IN ('INSERT', 'DELETE')) AND NOT has_table_privilege(quote_ident($1) || '.' || t, p)`, d.schema.name); err != nil {
		return err
	}
	if len(r.Problems) > before {
		return nil // What it may not read cannot be told.
	}
	var revision int64
	if err := s.conn.QueryRow(ctx, `SELECT owner_name, owner_since, revision, (SELECT count(*) FROM objects) FROM store_meta WHERE id = 1`).
		Scan(&r.LastOwner, &r.LastTaken, &revision, &r.Objects); err != nil {
		return err
	}
	r.Revision = uint64(revision)
	return nil
}

// lacks adds a problem for each privilege that a query names.
func (d *DB) lacks(ctx context.Context, s *session, r *Report, purpose, query string, args ...any) error {
	rows, err := s.conn.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, m := range missing {
		r.Problems = append(r.Problems, fmt.Sprintf("the role lacks the privilege %s %s; grant it", m, purpose))
	}
	return err
}

// checkDurability looks for settings that lose what was confirmed.
func (s *session) checkDurability(ctx context.Context, r *Report) error {
	for name, effect := range map[string]string{
		"fsync":            "a crash of its machine can lose or damage everything",
		"full_page_writes": "a crash of its machine can damage the database",
	} {
		var setting string
		if err := s.conn.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&setting); err != nil {
			return err
		}
		if setting == "off" {
			r.Problems = append(r.Problems, fmt.Sprintf("the server has %s = off: %s; switch it on", name, effect))
		}
	}
	slices.Sort(r.Problems)
	return nil
}

func roundTrip(ctx context.Context, s *session) (time.Duration, error) {
	times := make([]time.Duration, roundTrips)
	for i := range times {
		start := time.Now()
		if err := s.conn.Ping(ctx); err != nil {
			return 0, err
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times)
	return times[roundTrips/2], nil
}
