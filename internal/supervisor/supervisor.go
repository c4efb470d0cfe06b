// Package supervisor puts the parts of a sandbox's supervisor together: it keeps a session with the gateway, runs
// commands for it, serves SSH, follows the sandbox's configuration and sends its own log. The parts live in
// packages of their own below this one and do not know each other.
//
// It starts with what any compute driver of OpenShell puts into a sandbox's environment. It does not enforce
// policies and has no egress proxy yet: commands see the real values of the sandbox's provider environment.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/supervisor/env"
	"sallyport.dev/sallyport/internal/supervisor/execserver"
	"sallyport.dev/sallyport/internal/supervisor/identity"
	"sallyport.dev/sallyport/internal/supervisor/launch"
	"sallyport.dev/sallyport/internal/supervisor/link"
	"sallyport.dev/sallyport/internal/supervisor/logpush"
	"sallyport.dev/sallyport/internal/supervisor/process"
	"sallyport.dev/sallyport/internal/supervisor/session"
	"sallyport.dev/sallyport/internal/supervisor/settings"
	"sallyport.dev/sallyport/internal/supervisor/sshd"
)

const (
	// endGrace is what children have to end themselves when the supervisor ends.
	endGrace = 2 * time.Second
	// endTimeout bounds the wait for them.
	endTimeout = 3 * time.Second
	// logFlush is what the last log lines have to reach the gateway.
	logFlush = 500 * time.Millisecond
)

// Options is what Run needs.
type Options struct {
	Config *env.Config
	// SFTP is the command that serves file transfers on its standard input and output; see SFTP.
	SFTP []string
	// Output takes the log, and what a main process on a terminal writes.
	Output io.Writer
	// Adopted tells that this process is the parent of the sandbox's orphans and has to reap them.
	Adopted bool
}

// Run runs a supervisor until ctx ends or the sandbox's main process has ended. It returns the exit code for the
// whole process: the main process's, or 0.
func Run(ctx context.Context, o Options) (int, error) {
	c := o.Config
	pusher := logpush.New(c.SandboxID)
	local := slog.NewTextHandler(o.Output, &slog.HandlerOptions{Level: c.LogLevel})
	log := slog.New(slog.NewMultiHandler(local, pusher.Handler(c.PushLevel)))
	quiet := slog.New(local)

	tokens, err := identity.Open(c.Identity, log)
	if err != nil {
		return 1, fmt.Errorf("open sandbox identity: %w", err)
	}
	conn, err := link.Dial(c.Endpoint, c.TLS, tokens)
	if err != nil {
		return 1, fmt.Errorf("open gateway connection: %w", err)
	}
	defer conn.Close()
	gateway := openshellpb.NewOpenShellClient(conn)
	renew := func(ctx context.Context, cause error) { tokens.Renew(ctx, gateway, cause) }
	follower := settings.New(settings.Options{
		SandboxID: c.SandboxID, Gateway: gateway, Interval: c.PollInterval, Unauthenticated: renew, Log: log,
	})
	s := &supervisor{
		Options: o, log: log, gateway: gateway, instance: uuid.NewString(), table: &process.Table{},
		follower: follower, tokens: tokens, renew: renew,
	}
	s.launcher = &launch.Launcher{
		Table: s.table, Workdir: c.Workdir, User: c.UserEnvironment, Marker: c.Marker, Path: c.Path,
		Credential: c.Credential, Provider: follower.Provider,
	}
	listener, cleanup, err := s.listen(ctx)
	if err != nil {
		return 1, err
	}
	defer cleanup()
	if !tokens.Has() {
		log.Warn("no sandbox credential in the environment; the gateway may refuse this supervisor")
	}
	// The log outlives the rest, so that the gateway hears of the end as well.
	pushCtx, stopPush := context.WithCancel(context.WithoutCancel(ctx))
	pushed := make(chan error, 1)
	go func() { pushed <- pusher.Run(pushCtx, gateway, logFlush, quiet) }()
	code, err := s.run(ctx, listener)
	stopPush()
	return code, errors.Join(err, <-pushed)
}

// supervisor is one run.
type supervisor struct {
	Options
	log      *slog.Logger
	gateway  openshellpb.OpenShellClient
	instance string
	table    *process.Table
	launcher *launch.Launcher
	follower *settings.Follower
	tokens   *identity.Source
	renew    func(ctx context.Context, cause error)
}

// listen opens the SSH socket, in a private directory if the driver named none.
func (s *supervisor) listen(ctx context.Context) (net.Listener, func(), error) {
	path, cleanup := s.Config.SSHSocket, func() {}
	if path == "" {
		dir, err := os.MkdirTemp("", "sallyport-ssh-")
		if err != nil {
			return nil, nil, fmt.Errorf("make directory for the ssh socket: %w", err)
		}
		cleanup = func() {
			if err := os.RemoveAll(dir); err != nil {
				s.log.Warn("directory of the ssh socket not removed", "error", err)
			}
		}
		path = filepath.Join(dir, "ssh.sock")
	}
	l, err := sshd.Listen(ctx, path)
	if err != nil {
		cleanup()
		return nil, nil, err
	}
	return l, cleanup, nil
}

// run starts the parts in the order in which they need each other, and ends them all when one has ended.
func (s *supervisor) run(parent context.Context, listener net.Listener) (int, error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	server, err := sshd.New(sshd.Options{Starter: s.launcher, SFTP: s.SFTP, Forward: session.LoopbackAddress, Log: s.log})
	if err != nil {
		listener.Close()
		return 1, err
	}
	group.Go(func() error { return server.Serve(ctx, listener) })
	if s.Adopted {
		group.Go(func() error { return s.table.Reap(ctx) })
	}
	if err := s.tokens.Bootstrap(ctx, s.gateway); err != nil {
		s.log.Warn("no sandbox token yet; trying again in the background", "error", err)
	}
	group.Go(func() error { return s.tokens.Run(ctx, s.gateway) })
	// A sandbox counts as ready once its session stands, so a first command must find the environment there.
	s.follower.Load(ctx)
	group.Go(func() error { return s.follower.Run(ctx) })
	client := session.New(session.Options{
		SandboxID: s.Config.SandboxID, InstanceID: s.instance, Gateway: s.gateway,
		Exec: execserver.New(s.launcher, s.log), SSH: server, Unauthenticated: s.renew, Log: s.log,
	})
	group.Go(func() error { return client.Run(ctx) })
	code := 0
	if s.Config.Main != nil && ctx.Err() == nil {
		group.Go(func() error {
			defer cancel()
			code = s.runMain(ctx)
			return nil
		})
	}
	<-ctx.Done()
	s.log.Info("supervisor ends", "children", s.table.Len())
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer stop()
	if err := s.table.Shutdown(end, endGrace); err != nil {
		s.log.Error("children did not end", "error", err)
	}
	if err := group.Wait(); err != nil {
		return 1, fmt.Errorf("supervisor: %w", err)
	}
	return code, nil
}
