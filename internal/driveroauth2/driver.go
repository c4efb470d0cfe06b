package driveroauth2

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

// Options is what a Driver needs.
type Options struct {
	// ConfigPath is the YAML file of credentials; SecretsDir holds the secret files it names.
	ConfigPath, SecretsDir string
	// AllowHTTP permits plain http token endpoints that are not on this machine.
	AllowHTTP bool
	// Client talks to token endpoints; build it with NewHTTPClient.
	Client *http.Client
	Logger *slog.Logger
	// Poll is how often Run looks for changed files; zero means every 5 s.
	Poll time.Duration
}

// Driver resolves credentials. Build it with New, run it with Run, end it with Close.
type Driver struct {
	opts Options
	wg   sync.WaitGroup
	life context.Context
	end  context.CancelFunc

	mu      sync.RWMutex
	entries map[string]*entry
	seen    [sha256.Size]byte
}

// entry is one configured credential with its token.
type entry struct {
	Credential
	source *source
	cancel context.CancelFunc
	// secretSum is the digest of the secret last used in a request; nil before the first.
	secretSum atomic.Pointer[[sha256.Size]byte]
}

// New loads the configuration and returns a driver that has asked for nothing yet. A credential whose secret
// cannot be read is logged and answered with an error until its file appears; it does not stop the others.
func New(opts Options) (*Driver, error) {
	if opts.Poll <= 0 {
		opts.Poll = 5 * time.Second
	}
	d := &Driver{opts: opts, entries: map[string]*entry{}}
	d.life, d.end = context.WithCancel(context.Background())
	if err := d.Reload(); err != nil {
		d.end()
		return nil, err
	}
	for _, name := range d.names() {
		e, _ := d.entry(name)
		if _, err := readSecret(opts.SecretsDir, e.SecretRef); err != nil {
			opts.Logger.Warn("secret not resolved", "credential", name, "error", err)
		}
	}
	return d, nil
}

// Reload reads the configuration again. On any problem the present one stays in force. A credential that did
// not change keeps its token.
func (d *Driver) Reload() error {
	raw, err := readConfig(d.opts.ConfigPath)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = sha256.Sum256(raw)
	conf, err := ParseConfig(d.opts.ConfigPath, raw, d.opts.AllowHTTP)
	if err != nil {
		return err
	}
	for name, e := range d.entries {
		if c, ok := conf[name]; !ok || !c.equal(e.Credential) {
			e.cancel()
			e.source.stop()
			delete(d.entries, name)
		}
	}
	for name, c := range conf {
		if d.entries[name] == nil {
			d.entries[name] = d.newEntry(c)
		}
	}
	d.opts.Logger.Info("configuration loaded", "credentials", len(d.entries))
	return nil
}

func (d *Driver) newEntry(c Credential) *entry {
	e := &entry{Credential: c}
	life, cancel := context.WithCancel(d.life)
	e.cancel = cancel
	e.source = newSource(life, &d.wg, d.opts.Logger.With("credential", c.Name), func(ctx context.Context) (token, error) {
		secret, err := readSecret(d.opts.SecretsDir, c.SecretRef)
		if err != nil {
			return token{}, fault.New(fault.Internal, "SECRET_NOT_RESOLVED", "secret not resolved for credential %q: %s", c.Name, err).
				WithNext("put the client secret in file %q of the driver's secrets directory", c.SecretRef)
		}
		sum := sha256.Sum256([]byte(secret))
		e.secretSum.Store(&sum)
		t, err := fetchToken(ctx, d.opts.Client, c, secret)
		if err == nil && time.Until(t.expires) <= 0 {
			err = errors.New("token endpoint answered a token that has expired already")
		}
		if err != nil {
			return token{}, fault.New(fault.Unavailable, "TOKEN_NOT_OBTAINED", "failed to resolve credential %q: %s", c.Name, err).
				WithNext("check the identity provider and this credential's entry in the driver's configuration")
		}
		return t, nil
	})
	return e
}

// Resolve returns the credential's token.
func (d *Driver) Resolve(ctx context.Context, name string) (value, kind string, expires time.Time, err error) {
	if name == "" {
		return "", "", time.Time{}, fault.New(fault.InvalidArgument, "CREDENTIAL_NAME_REQUIRED", "credential name is required")
	}
	if len(name) > maxNameBytes {
		return "", "", time.Time{}, fault.New(fault.InvalidArgument, "CREDENTIAL_NAME_TOO_LONG",
			"credential name is longer than %d bytes", maxNameBytes)
	}
	e, ok := d.entry(name)
	if !ok {
		return "", "", time.Time{}, fault.New(fault.NotFound, "CREDENTIAL_NOT_CONFIGURED", "credential %q not configured", name).
			WithNext("add it to the driver's configuration, or list the configured names")
	}
	t, err := e.source.token(ctx)
	if err != nil {
		return "", "", time.Time{}, err
	}
	return t.value, t.kind, t.expires, nil
}

// List returns the configured credentials, sorted by name.
func (d *Driver) List() []Credential {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]Credential, 0, len(d.entries))
	for _, name := range slices.Sorted(maps.Keys(d.entries)) {
		out = append(out, d.entries[name].Credential)
	}
	return out
}

func (d *Driver) names() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Sorted(maps.Keys(d.entries))
}

func (d *Driver) entry(name string) (*entry, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e, ok := d.entries[name]
	return e, ok
}

// Run watches the configuration and the secret files until ctx ends; a value on reload makes it look at once.
// Contents are compared, not times: a mounted secret that is swapped as a whole is seen too.
func (d *Driver) Run(ctx context.Context, reload <-chan struct{}) {
	tick := time.NewTicker(d.opts.Poll)
	defer tick.Stop()
	for {
		force := false
		select {
		case <-ctx.Done():
			return
		case <-reload:
			force = true
		case <-tick.C:
		}
		d.checkConfig(force)
		d.checkSecrets()
	}
}

func (d *Driver) checkConfig(force bool) {
	raw, err := readConfig(d.opts.ConfigPath)
	if err != nil {
		d.opts.Logger.Error("configuration not reloaded, the present one stays in force", "error", err)
		return
	}
	d.mu.RLock()
	same := sha256.Sum256(raw) == d.seen
	d.mu.RUnlock()
	if same && !force {
		return
	}
	if err := d.Reload(); err != nil {
		d.opts.Logger.Error("configuration not reloaded, the present one stays in force", "error", err)
	}
}

// checkSecrets renews the tokens that were obtained with a secret that has changed since.
func (d *Driver) checkSecrets() {
	for _, name := range d.names() {
		e, ok := d.entry(name)
		if !ok {
			continue
		}
		used := e.secretSum.Load()
		if used == nil || !e.source.hasToken() {
			continue
		}
		secret, err := readSecret(d.opts.SecretsDir, e.SecretRef)
		if err != nil {
			d.opts.Logger.Warn("secret not resolved", "credential", name, "error", err)
			continue
		}
		if sha256.Sum256([]byte(secret)) != *used {
			d.opts.Logger.Info("client secret changed, renewing the token", "credential", name)
			e.source.refresh()
		}
	}
}

// Close ends every request and timer and waits for them.
func (d *Driver) Close() {
	d.end()
	d.mu.Lock()
	for _, e := range d.entries {
		e.cancel()
		e.source.stop()
	}
	d.mu.Unlock()
	d.wg.Wait()
}
