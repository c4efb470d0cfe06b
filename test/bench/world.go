package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

// gatewaySays is the line by which the gateway, and the limit too, tells that it serves.
const gatewaySays = `"msg":"gateway serving"`

const gatewayName = "gateway"

type worldOptions struct {
	stored int
	secure bool
	// limited leaves the limits on what one address may take as they are by default. Elsewhere one address does what
	// thousands do.
	limited bool
	// overSSH makes the limit run commands over SSH.
	overSSH bool
}

// world is a gateway with its database, driver and limit.
type world struct {
	worldOptions
	b   *bench
	dir string
	// ids of the stored sandboxes; the i-th is called boxName(i).
	ids     []string
	token   string
	tokens  *sandboxtoken.Issuer
	driver  *process
	gateway *process
	limit   *process
	// others are further children, stopped first.
	others []*process
}

func boxName(i int) string { return fmt.Sprintf("box-%06d", i) }

// newWorld fills a database and starts driver and gateway; startLimit starts the limit.
func newWorld(ctx context.Context, b *bench, o worldOptions) (*world, error) {
	w, err := prepareWorld(ctx, b, o)
	if err == nil {
		w.gateway, err = w.startGateway(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// prepareWorld does all but start the gateway. The world is to be closed in any case.
func prepareWorld(ctx context.Context, b *bench, o worldOptions) (*world, error) {
	b.serial++
	w := &world{worldOptions: o, b: b, dir: filepath.Join(b.dir, fmt.Sprintf("world-%d", b.serial))}
	if err := os.MkdirAll(filepath.Join(w.dir, "answers"), 0o700); err != nil {
		return w, err
	}
	if err := w.fill(ctx); err != nil {
		return w, fmt.Errorf("fill the database: %w", err)
	}
	var err error
	if w.token, err = b.issuer.mint("alice"); err != nil {
		return w, err
	}
	w.tokens, err = sandboxtoken.Open(filepath.Join(w.dir, "sandbox-keys"), "openshell", time.Hour, nil)
	if err != nil {
		return w, err
	}
	if o.secure {
		if err := w.certificate(); err != nil {
			return w, fmt.Errorf("make a certificate: %w", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return w, err
	}
	w.driver, err = start(ctx, command{
		name: "driver", path: self, args: []string{driverCommand, "-socket", w.path("driver.sock"), "-seed", w.path("seed")},
		log: w.path("driver.log"), says: driverSays,
	})
	return w, err
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// fill stores sandboxes that the driver has and that are ready but for their supervisors.
func (w *world) fill(ctx context.Context) (err error) {
	db, err := sqlite.Open(ctx, "sqlite:"+w.path("openshell.db"))
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, db, store.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	payload, err := json.Marshal(&sandbox.Record{
		Annotations: map[string]string{"example.test/purpose": "bench"},
		Spec: sandbox.Spec{
			LogLevel: "info", Environment: map[string]string{"LANG": "C.UTF-8", "PROJECT": "bench"},
			Template: sandbox.Template{Image: "registry.example.test/sandbox:1", Labels: map[string]string{"tier": "bench"}},
		},
		Accepted: true, DriverPhase: sandbox.PhaseReady,
		Conditions: []sandbox.Condition{{Type: sandbox.ConditionReady, Status: "True"}},
	})
	if err != nil {
		return err
	}
	for len(w.ids) < w.stored {
		var ops []store.Op
		for range min(store.MaxOps, w.stored-len(w.ids)) {
			id := uuid.NewString()
			ops = append(ops, store.Create(&store.Object{
				Kind: sandbox.Kind, ID: id, Workspace: sandbox.DefaultWorkspace, Name: boxName(len(w.ids)), Owner: "alice",
				Labels: map[string]string{"team": "blue"}, Payload: payload,
			}))
			w.ids = append(w.ids, id)
		}
		if _, err := s.Write(ctx, ops...); err != nil {
			return err
		}
	}
	return os.WriteFile(w.path("seed"), []byte(strings.Join(w.ids, "\n")), 0o600)
}

// startGateway starts the real program, or with -profile the same with a profiler around it.
func (w *world) startGateway(ctx context.Context) (*process, error) {
	c := command{
		name: gatewayName, path: filepath.Join(w.b.dir, "sallyport-gateway"), log: w.path("gateway.log"), says: gatewaySays,
		args: []string{
			"--port", "0", "--drivers", "external", "--compute-driver-socket", w.path("driver.sock"),
			"--db-url", "sqlite:" + w.path("openshell.db"), "--oidc-issuer", w.b.issuer.url,
			// One caller does here what thousands do elsewhere.
			"--principal-requests-per-second", "0", "--tenant-requests-per-second", "0",
		},
	}
	if !w.limited {
		c.args = append(c.args, "--anonymous-requests-per-second", "0")
	}
	if w.secure {
		c.args = append(c.args, "--tls-cert", w.path("cert.pem"), "--tls-key", w.path("key.pem"))
	} else {
		c.args = append(c.args, "--disable-tls")
	}
	if w.b.profile != "" {
		c.path = filepath.Join(w.b.dir, "profiled")
		c.env = append(c.env, "BENCH_PROFILE="+w.b.profile)
	}
	return start(ctx, c)
}

// startLimit starts the limit with the answers that were captured so far.
func (w *world) startLimit(ctx context.Context) (*process, error) {
	c := command{
		name: "limit", path: filepath.Join(w.b.dir, "limit"), log: w.path("limit.log"), says: gatewaySays,
		args: []string{"-answers", w.path("answers")},
	}
	if w.secure {
		c.args = append(c.args, "-cert", w.path("cert.pem"), "-key", w.path("key.pem"))
	}
	if w.overSSH {
		c.args = append(c.args, "-ssh")
	}
	return start(ctx, c)
}

func (w *world) close() error {
	var errs []error
	for _, p := range append(w.others, w.limit, w.gateway, w.driver) {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(errs...)
}

// certificate makes a certificate for the loopback address, signed by itself.
func (w *world) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(w.path("cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(w.path("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
}
