// Package gateway composes the gateway: configuration, store, doors, services, listeners and an orderly end. It is
// the only package that knows all rooms; everything is built here, once, in reading order, and handed down. Nothing
// is global, so that a test can build it twice.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/reflect/protoreflect"

	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/audit/export"
	"sallyport.dev/sallyport/internal/audit/sessions"
	"sallyport.dev/sallyport/internal/callback"
	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/exec"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/site"
	"sallyport.dev/sallyport/internal/sshconnect"
	"sallyport.dev/sallyport/internal/sshsession"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
	"sallyport.dev/sallyport/internal/streamstop"
	"sallyport.dev/sallyport/internal/tlsfiles"
	"sallyport.dev/sallyport/internal/tracing"
	"sallyport.dev/sallyport/internal/wstunnel"
)

var errStarting = errors.New("readiness monitor still initializing")

// logBytes bounds all sandboxes' log rings together.
const logBytes = 256 << 20

// Options are the gateway's parameters beside its configuration.
type Options struct {
	Version string
	Logger  *slog.Logger
	// Listener replaces the configured address, for tests.
	Listener net.Listener
	// ParseText reads settings with this text instead of the configuration file's, to tell what it would change; nil
	// means that nobody can be told.
	ParseText func(file []byte) (*config.Config, error)
}

// Gateway is a whole gateway, ready to Run.
type Gateway struct {
	cfg *config.Config
	// inForce is cfg with what Apply changed.
	inForce   atomic.Pointer[config.Config]
	opts      Options
	log       *slog.Logger
	store     *store.Store
	conns     []*driver.Conn
	resolver  *credential.Resolver
	compute   *compute.Client
	identity  identity
	recorder  audit.Recorder
	auditLog  *audit.Log
	sessions  *observer
	relays    *relay.Registry
	sandboxes *sandbox.Service
	providers *provider.Service
	grpc      *grpc.Server
	metrics   *metrics
	readiness *readiness
	port      *listener.Port
	// site knows the gateway's own names, for what browsers ask.
	site     *site.Policy
	callback *callback.Scope
	ssh      *sshsession.Service
	connect  *sshconnect.Handler
	exposed  exposed
	// tunnels are nil unless they are served.
	tunnels *wstunnel.Tunnels
	// tracer is nil unless traces are wanted; exporter is nil unless audit records are sent on.
	tracer   *tracing.Tracer
	exporter *export.OTLP
	// certificates are nil without TLS.
	certificates atomic.Pointer[tlsfiles.Bundle]
}

// New builds a gateway. It needs the store; drivers and identity provider may come later. Close releases it if Run
// is never called.
func New(ctx context.Context, cfg *config.Config, opts Options) (*Gateway, error) {
	g := &Gateway{cfg: cfg, opts: opts, log: opts.Logger, sessions: &observer{}}
	g.inForce.Store(cfg)
	if err := g.build(ctx); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// build opens what costs time side by side: the database, the sandbox keys, and the rules.
func (g *Gateway) build(ctx context.Context) error {
	if g.cfg.StateDir != "" {
		if err := os.MkdirAll(g.cfg.StateDir, 0o700); err != nil {
			return fmt.Errorf("make the state directory: %w", err)
		}
	}
	g.relays = relay.NewRegistry(g.sessions)
	g.metrics = newMetrics(g.opts.Version)
	g.openTracing()
	var opening errgroup.Group
	opening.Go(func() error { return g.openStore(ctx) })
	opening.Go(func() error { return errors.Join(g.openTokens(), g.readRules()) })
	opening.Go(g.openAudit)
	if err := opening.Wait(); err != nil {
		return err
	}
	if err := g.identify(); err != nil {
		return err
	}
	if err := g.openWorkspaces(ctx); err != nil {
		return err
	}
	services, err := g.services()
	if err != nil {
		return err
	}
	g.callback, err = callback.New(callback.Config{
		Driver: g.compute, Table: g.identity.rules.Table(), Public: g.cfg.Listen.Public, Recorder: g.recorder, Logger: g.log,
		Refused: g.metrics.outOfScope,
	})
	if err != nil {
		return fmt.Errorf("set up the addresses of sandboxes: %w", err)
	}
	d, err := g.door()
	if err != nil {
		return err
	}
	return g.listeners(services, d)
}

func (g *Gateway) openStore(ctx context.Context) error {
	db, err := openBackend(ctx, g.cfg, g.log)
	if err != nil {
		return err
	}
	if g.store, err = store.Open(ctx, db, store.Options{
		Logger: g.log, Observe: g.metrics.committedBatch, Trace: g.storeTracer(),
	}); err != nil {
		return errors.Join(fmt.Errorf("open the store: %w", err), db.Close())
	}
	return nil
}

// services builds the rooms between the dialects and the mechanisms.
func (g *Gateway) services() (v00.Services, error) {
	tokens := g.identity.tokens
	conn, err := g.dial("compute", g.cfg.Drivers.ComputeSocket)
	if err != nil {
		return v00.Services{}, err
	}
	g.compute = compute.New(conn, g.log)
	if err := g.openResolver(); err != nil {
		return v00.Services{}, err
	}
	keys, err := loadKeys(g.cfg)
	if err != nil {
		return v00.Services{}, err
	}
	logs := sandboxlog.NewHub(logBytes)
	g.providers, err = provider.New(provider.Options{
		Store: g.store, Resolver: g.resolver, Key: keys[0], OldKeys: keys[1:], AcceptLost: g.cfg.CredentialKey.AcceptLost, Logger: g.log,
		Access: g.identity.rules, Use: g.identity.workspaces.Use,
		InUse: func(workspace, name string) []string { return g.sandboxes.UsersOf(workspace, name) },
	})
	if err != nil {
		return v00.Services{}, fmt.Errorf("open the providers: %w", err)
	}
	g.sandboxes = sandbox.NewService(sandbox.Config{
		Store: g.store, Driver: g.compute, Sessions: g.relays, Tokens: tokens, Providers: g.providers, Logs: logs, Logger: g.log,
		Access: g.identity.rules, Workspaces: g.identity.workspaces,
	})
	g.sessions.Observer = sessions.New(sessions.Config{Next: g.sandboxes, Recorder: g.recorder, RequestID: door.RequestID})
	svc := v00.Services{
		Sandboxes: g.sandboxes, Providers: g.providers, Credentials: g.resolver, Compute: g.compute, Relays: g.relays,
		Exec: exec.NewRunner(g.relays), Logs: logs, Tokens: tokens, Healthy: func() error { return g.readiness.Err() },
		Version: g.opts.Version, DriverName: g.cfg.Drivers.Name, Logger: g.log,
		Keys: tokens, Recorder: g.recorder, Revocations: g.identity.revoked,
	}
	if g.auditLog != nil {
		svc.Audit = g.auditLog
	}
	svc.Explain, svc.Workspaces = g.explainer(), g.identity.workspaces
	if err := g.openSSH(); err != nil {
		return v00.Services{}, err
	}
	if svc.Exposed, err = g.openServices(); err != nil {
		return v00.Services{}, err
	}
	svc.SSH = v00.SSH{
		Sessions: g.ssh, Bind: g.cfg.Listen.Address, TLS: g.cfg.TLS.Certificate != "", Host: g.cfg.SSH.Host,
		Port: uint16(g.cfg.SSH.Port), ConnectPath: g.cfg.SSH.Path,
	}
	return svc, nil
}

// openSSH builds the sessions of SSH clients and what connects them.
func (g *Gateway) openSSH() (err error) {
	ttl := g.cfg.SSH.TTL
	if ttl == 0 {
		ttl = -1 // For ever, as the sessions understand it.
	}
	if g.ssh, err = sshsession.New(sshsession.Config{
		Store: g.store, Sandboxes: g.sandboxes, Users: g.identity.revoked, TTL: ttl, Logger: g.log,
	}); err != nil {
		return fmt.Errorf("open the SSH sessions: %w", err)
	}
	g.connect, err = sshconnect.New(sshconnect.Config{
		Sessions: g.ssh, Relays: g.relays, Limiter: g.identity.limiter, Audit: g.recorder, Observe: g.metrics.connected, Logger: g.log,
	})
	if err != nil {
		return fmt.Errorf("set up SSH connections: %w", err)
	}
	return nil
}

// openResolver reaches the credentials driver, if there is one. Without it, providers that name a driver credential
// are refused with the reason.
func (g *Gateway) openResolver() error {
	options := credential.Options{Logger: g.log}
	if g.cfg.Drivers.CredentialsSocket != "" {
		conn, err := g.dial("credentials", g.cfg.Drivers.CredentialsSocket)
		if err != nil {
			return err
		}
		options.Driver = credentials.New(conn)
	}
	g.resolver = credential.NewResolver(options)
	return nil
}

func (g *Gateway) dial(name, socket string) (*driver.Conn, error) {
	conn, err := driver.Dial(driver.Config{
		Name: name, Socket: socket, Logger: g.log, Metrics: g.metrics, Trace: g.driverTracer(),
	})
	if err != nil {
		return nil, fmt.Errorf("set up the %s driver: %w", name, err)
	}
	g.conns = append(g.conns, conn)
	return conn, nil
}

// publicServices need no credential.
func publicServices() []protoreflect.ServiceDescriptor {
	return []protoreflect.ServiceDescriptor{healthpb.File_grpc_health_v1_health_proto.Services().ByName("Health")}
}

func (g *Gateway) listeners(services v00.Services, d *door.Door) error {
	traceUnary, traceStream := g.traceOptions()
	options := append(listener.GRPCOptions(), grpc.ChainUnaryInterceptor(traceUnary...), grpc.ChainStreamInterceptor(traceStream...),
		grpc.MaxConcurrentStreams(uint32(g.cfg.Limits.Streams)),
		grpc.ChainUnaryInterceptor(g.callback.Unary(), g.exposed.unary, d.Unary()),
		grpc.ChainStreamInterceptor(g.callback.Stream(), g.exposed.stream, d.Stream()),
		grpc.UnknownServiceHandler(d.Unknown()), grpc.InTapHandle(streamstop.Tap(v00.Streams())))
	g.grpc = grpc.NewServer(options...)
	v00.Register(g.grpc, services)
	healthServer := health.NewServer()
	healthpb.RegisterHealthServer(g.grpc, healthServer)
	reflection.Register(g.grpc)
	g.readiness = newReadiness(g.opts.Version, healthServer, g.metrics.changed, g.probes())
	g.readiness.observe = g.metrics.probed
	var err error
	if g.site, err = site.New(site.Config{Hosts: g.cfg.Edge.AllowedHosts, Origins: g.cfg.Edge.AllowedOrigins}); err != nil {
		return fmt.Errorf("set up the names of the gateway: %w", err)
	}
	tlsConfig, err := g.openTLS()
	if err != nil {
		return err
	}
	pages, err := g.web()
	if err != nil {
		return err
	}
	g.port, err = listener.New(listener.Config{
		TLS: tlsConfig, GRPC: g.grpc, HTTP: g.serviceHosts(g.metrics.count(g.callback.HTTP(pages))), FastPath: g.cfg.Listen.FastPath, Logger: g.log,
		MaxConnections: g.cfg.Limits.Connections, MaxPerAddress: g.cfg.Limits.ConnectionsPerAddress,
		Foreign: g.foreign, LimitLoopback: g.cfg.Limits.LimitLoopback, Refused: g.metrics.turnedAway,
	})
	return err
}

func (g *Gateway) probes() map[string]func(context.Context) error {
	probes := map[string]func(context.Context) error{
		"database":       storefault.Probe(g.store.Ping),
		"compute_driver": func(context.Context) error { return g.compute.Ready() },
	}
	if len(g.conns) > 1 {
		probes["credentials_driver"] = func(context.Context) error { return g.conns[1].Ready() }
	}
	probes["oidc"] = func(context.Context) error {
		// Issuers may come and go while the gateway runs.
		if len(g.inForce.Load().Issuers) == 0 {
			return errAbsent
		}
		return g.identity.ready()
	}
	if g.auditLog != nil {
		log := g.auditLog
		probes["audit"] = func(context.Context) error { return log.Err() }
	}
	return probes
}

// publicText is what a probe's error may tell the world.
func publicText(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Message
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "health check timed out"
	}
	if errors.Is(err, errStarting) {
		return err.Error()
	}
	return "unavailable"
}

// Run serves until ctx ends, then drains and releases everything. It may be called once.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.Close()
	l := g.opts.Listener
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", g.cfg.Listen.Address.String()); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	side, err := g.sideListeners()
	if err != nil {
		l.Close()
		return err
	}
	sendAudit, err := g.exportAudit()
	if err != nil {
		for _, s := range side {
			s.listener.Close()
		}
		l.Close()
		return err
	}
	g.observe()
	defer g.sendTraces()()
	for _, w := range g.cfg.Warnings {
		g.log.Warn("configuration", "warning", w)
	}
	g.log.Info("gateway serving", "address", l.Addr().String(), "tls", g.cfg.TLS.Certificate != "", "version", g.opts.Version,
		"sandboxes", g.store.Count(sandbox.Kind))
	all := g.callback.Listen(g.splitServices(l))
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.readiness.Run(gctx) })
	group.Go(func() error { return g.store.Guard(gctx) })
	group.Go(func() error {
		g.relays.Beat(gctx)
		return nil
	})
	group.Go(func() error {
		tend(gctx, g.relays.Sessions, g.log)
		return nil
	})
	group.Go(func() error {
		g.reseal(gctx)
		return nil
	})
	group.Go(func() error { return g.sandboxes.Follow(gctx) })
	group.Go(func() error { return ignoreCanceled(gctx, g.ssh.Run(gctx)) })
	group.Go(func() error { return ignoreCanceled(gctx, g.identity.workspaces.Run(gctx)) })
	g.runServices(gctx, group)
	group.Go(func() error { return g.sandboxes.Retry(gctx) })
	group.Go(func() error { return ignoreCanceled(gctx, g.compute.Watch(gctx, g.sandboxes)) })
	g.identity.run(func(loop func(context.Context) error) {
		group.Go(func() error { return ignoreCanceled(gctx, loop(gctx)) })
	})
	if sendAudit != nil {
		group.Go(func() error { return ignoreCanceled(gctx, sendAudit(gctx)) })
	}
	g.note(audit.ActionStart, "", map[string]string{"version": g.opts.Version, "address": l.Addr().String()})
	for _, s := range side {
		group.Go(func() error { return s.run(gctx) })
	}
	group.Go(func() error {
		<-gctx.Done()
		// Sessions never end by themselves: they go when the relays on them have ended, or have had most of the grace.
		drain, cancel := context.WithTimeout(context.Background(), g.cfg.ShutdownGrace*3/4)
		defer cancel()
		g.relays.Drain(drain, "gateway is shutting down")
		return nil
	})
	if g.tunnels != nil {
		stopTunnels := context.AfterFunc(gctx, g.tunnels.Close)
		defer stopTunnels()
	}
	group.Go(func() error { return ignoreCanceled(gctx, all.Run(gctx)) })
	group.Go(func() error { return g.port.Serve(gctx, all, g.cfg.ShutdownGrace) })
	err = group.Wait()
	g.sandboxes.Wait()
	g.suspend()
	g.note(audit.ActionStop, "", nil)
	g.log.Info("gateway stopped")
	return err
}

// suspend has the driver stop what it left to the gateway to start and stop; most drivers leave nothing.
func (g *Gateway) suspend() {
	if g.compute.Ready() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.ShutdownGrace)
	defer cancel()
	if err := g.sandboxes.Suspend(ctx); err != nil {
		g.log.Warn("stop the sandboxes with the gateway", "error", err)
	}
}

// ignoreCanceled drops the error of a loop that ended because the gateway does.
func ignoreCanceled(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// Close releases what New opened.
func (g *Gateway) Close() {
	if g.grpc != nil {
		g.grpc.Stop()
	}
	if g.connect != nil {
		g.connect.Close()
	}
	g.exposed.close()
	if g.resolver != nil {
		g.resolver.Close()
		g.resolver = nil
	}
	for _, c := range g.conns {
		if err := c.Close(); err != nil {
			g.log.Debug("close a driver connection", "error", err)
		}
	}
	g.conns = nil
	g.identity.close()
	g.tracer.Close()
	g.closeAudit()
	if g.store != nil {
		if err := g.store.Close(); err != nil {
			g.log.Error("close the store", "error", err)
		}
		g.store = nil
	}
}

// observer breaks the circle between sessions, which report to sandboxes, and sandboxes, which ask for sessions.
type observer struct{ relay.Observer }
