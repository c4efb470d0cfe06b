package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

func execRows() []row {
	return []row{
		{"exec-true", "exec true with our supervisor, one at a time", runExecTrue},
		{"exec-output", "exec output with our supervisor, one stream", runExecOutput},
		{"exec-output-16", "exec output with our supervisor, 16 streams", runExecOutput16},
		{"relay-opens", "relay opens, 16 at a time", runRelayOpens},
		{"relay-output", "output of a supervisor that runs nothing, one stream", runRelayOutput},
		{"ssh-true", "exec true over SSH, one at a time", runSSHTrue},
		{"ssh-output", "exec output over SSH, one stream", runSSHOutput},
	}
}

// execPair is a world whose two servers have a supervisor each for the same sandbox.
type execPair struct {
	world *world
	conns [2]*grpc.ClientConn
	stubs []*stub
}

// servers returns limit and gateway, in this order.
func (w *world) servers() [2]*process { return [2]*process{w.limit, w.gateway} }

func (b *bench) newExecPair(ctx context.Context, o worldOptions) (*execPair, error) {
	o.stored = fewStored
	w, err := newWorld(ctx, b, o)
	if err != nil {
		return nil, err
	}
	p := &execPair{world: w}
	w.limit, err = w.startLimit(ctx)
	for i := 0; err == nil && i < len(p.conns); i++ {
		p.conns[i], err = w.dial(w.servers()[i].address)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// withSupervisors starts the real supervisor on both sides.
func (b *bench) withSupervisors(ctx context.Context) (*execPair, error) {
	p, err := b.newExecPair(ctx, worldOptions{})
	if err != nil {
		return nil, err
	}
	w := p.world
	token, _, err := w.tokens.Mint(w.ids[0])
	for i, server := range w.servers() {
		if err != nil || b.skips(i) {
			continue
		}
		var s *process
		s, err = start(ctx, command{
			name: "supervisor", path: filepath.Join(b.dir, "sallyport-supervisor"),
			log: w.path(fmt.Sprintf("supervisor-%s.log", server.name)), says: "gateway session established",
			env: []string{
				"OPENSHELL_SANDBOX_ID=" + w.ids[0], "OPENSHELL_ENDPOINT=http://" + server.address,
				"OPENSHELL_SANDBOX_TOKEN=" + token, "SALLYPORT_WORKDIR=" + w.dir,
			},
		})
		if s != nil {
			w.others = append(w.others, s)
		}
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// withStubs connects a stub on both sides.
func (b *bench) withStubs(ctx context.Context, o worldOptions, s stubOptions) (*execPair, error) {
	p, err := b.newExecPair(ctx, o)
	if err != nil {
		return nil, err
	}
	s.sandboxID = p.world.ids[0]
	for i, server := range p.world.servers() {
		if b.skips(i) {
			continue
		}
		connected, err := p.world.connectStub(ctx, server.address, s)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.stubs = append(p.stubs, connected)
	}
	return p, nil
}

func (p *execPair) close() error {
	var errs []error
	for _, s := range p.stubs {
		errs = append(errs, s.close())
	}
	for _, c := range p.conns {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(append(errs, p.world.close())...)
}

// compare runs the same command on both sides. It must print exactly so many bytes and end with 0.
func (p *execPair) compare(ctx context.Context, workers int, argv []string, want int64) ([]samples, error) {
	var subjects []subject
	for i, server := range p.world.servers() {
		client := openshellpb.NewOpenShellClient(p.conns[i])
		subjects = append(subjects, subject{server, workers, p.world.exec(client, argv, want)})
	}
	return p.world.b.compare(ctx, subjects...)
}

func (w *world) exec(client openshellpb.OpenShellClient, argv []string, want int64) call {
	request := &openshellpb.ExecSandboxRequest{SandboxId: w.ids[0], Command: argv}
	return func(ctx context.Context, _ int) (int64, error) {
		stream, err := client.ExecSandbox(bearer(ctx, w.token), request, grpc.WaitForReady(true))
		if err != nil {
			return 0, err
		}
		var got int64
		code, ended := int32(0), false
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return 0, err
			}
			got += int64(len(e.GetStdout().GetData()))
			if exit := e.GetExit(); exit != nil {
				code, ended = exit.ExitCode, true
			}
		}
		if !ended || code != 0 || got != want {
			return 0, fmt.Errorf("%v: %d bytes of %d, exit code %d, ended %t", argv, got, want, code, ended)
		}
		return got, nil
	}
}

// finish closes the pair and hands its lines on if all went well.
func finish(p *execPair, lines []line, err error) ([]line, error) {
	if err = errors.Join(err, p.close()); err != nil {
		return nil, err
	}
	return lines, nil
}

func runExecTrue(ctx context.Context, b *bench) ([]line, error) {
	p, err := b.withSupervisors(ctx)
	if err != nil {
		return nil, err
	}
	got, err := p.compare(ctx, 1, []string{"true"}, 0)
	if err != nil {
		return finish(p, nil, err)
	}
	return finish(p, []line{
		compared("exec true, our supervisor, one at a time", "p50 ms", got, sample.p50, atMost(1)),
		compared("exec true, our supervisor, one at a time", "CPU us/op", got, sample.cpuPerOp, atMost(500)),
	}, nil)
}

// A command's output: enough that its start does not count.
const (
	blockSize = 64 << 10
	fullSize  = 128 << 20
	quickSize = 16 << 20
	// sharedSize is what each of 16 streams prints.
	sharedSize = 16 << 20
)

func dd(size int64) []string {
	return []string{"dd", "if=/dev/zero", "bs=" + strconv.Itoa(blockSize), "count=" + strconv.FormatInt(size/blockSize, 10), "status=none"}
}

func runExecOutput(ctx context.Context, b *bench) ([]line, error) {
	p, err := b.withSupervisors(ctx)
	if err != nil {
		return nil, err
	}
	size := int64(pick(b, fullSize, quickSize))
	got, err := p.compare(ctx, 1, dd(size), size)
	if err != nil {
		return finish(p, nil, err)
	}
	return finish(p, []line{
		compared("exec output, our supervisor, one stream", "MB/s", got, sample.perSecond, ratioAtLeast(0.8)),
		compared("exec output, our supervisor, one stream", "CPU ms/MB", got, sample.cpuPerMB, recorded()),
	}, nil)
}

func runExecOutput16(ctx context.Context, b *bench) ([]line, error) {
	p, err := b.withSupervisors(ctx)
	if err != nil {
		return nil, err
	}
	size := int64(pick(b, sharedSize, sharedSize/4))
	got, err := p.compare(ctx, workersAtOnce, dd(size), size)
	if err != nil {
		return finish(p, nil, err)
	}
	return finish(p, []line{
		compared("exec output, our supervisor, 16 streams", "CPU ms/MB", got, sample.cpuPerMB, ratioAtMost(1.3)),
		compared("exec output, our supervisor, 16 streams", "MB/s", got, sample.perSecond, recorded()),
	}, nil)
}

func runRelayOpens(ctx context.Context, b *bench) ([]line, error) {
	p, err := b.withStubs(ctx, worldOptions{}, stubOptions{capability: true, relay: printing(0)})
	if err != nil {
		return nil, err
	}
	got, err := p.compare(ctx, workersAtOnce, []string{"true"}, 0)
	if err != nil {
		return finish(p, nil, err)
	}
	return finish(p, []line{
		compared("relay opens, 16 at a time", "op/s", got, sample.rate, ratioAtLeast(0.7)),
		compared("relay opens, 16 at a time", "CPU us/op", got, sample.cpuPerOp, recorded()),
	}, nil)
}

func runRelayOutput(ctx context.Context, b *bench) ([]line, error) {
	size := int64(pick(b, fullSize, quickSize))
	p, err := b.withStubs(ctx, worldOptions{}, stubOptions{capability: true, relay: printing(size)})
	if err != nil {
		return nil, err
	}
	got, err := p.compare(ctx, 1, []string{"print"}, size)
	if err != nil {
		return finish(p, nil, err)
	}
	return finish(p, []line{
		compared("output of a stub supervisor, one stream", "MB/s", got, sample.perSecond, ratioAtLeast(0.8)),
		compared("output of a stub supervisor, one stream", "CPU ms/MB", got, sample.cpuPerMB, recorded()),
	}, nil)
}

// overSSH compares with a limit that ends SSH itself.
func (b *bench) overSSH(ctx context.Context, size int64) (*execPair, []samples, error) {
	relay, err := printingOverSSH(size)
	if err != nil {
		return nil, nil, err
	}
	p, err := b.withStubs(ctx, worldOptions{overSSH: true}, stubOptions{relay: relay})
	if err != nil {
		return nil, nil, err
	}
	got, err := p.compare(ctx, 1, []string{"print"}, size)
	if err != nil {
		return nil, nil, errors.Join(err, p.close())
	}
	return p, got, nil
}

func runSSHTrue(ctx context.Context, b *bench) ([]line, error) {
	p, got, err := b.overSSH(ctx, 0)
	if err != nil {
		return nil, err
	}
	return finish(p, []line{
		compared("exec true over SSH, one at a time", "p50 ms", got, sample.p50, ratioAtMost(1)),
		compared("exec true over SSH, one at a time", "CPU us/op", got, sample.cpuPerOp, recorded()),
	}, nil)
}

func runSSHOutput(ctx context.Context, b *bench) ([]line, error) {
	p, got, err := b.overSSH(ctx, int64(pick(b, fullSize, quickSize)))
	if err != nil {
		return nil, err
	}
	return finish(p, []line{
		compared("exec output over SSH, one stream", "MB/s", got, sample.perSecond, ratioAtLeast(1)),
		compared("exec output over SSH, one stream", "CPU ms/MB", got, sample.cpuPerMB, recorded()),
	}, nil)
}
