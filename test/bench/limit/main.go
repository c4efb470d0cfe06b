// Command limit is the least that a gRPC server can do for the work that is measured: unary calls answer stored
// bytes, sessions are accepted and kept, and a command's output crosses one raw relay. It authenticates nobody,
// stores nothing and decides nothing; what the gateway costs beyond it is the gateway's own.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/test/bench/rawcodec"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "limit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("limit", flag.ContinueOnError)
	answers := flags.String("answers", "", "folder with one file of encoded answer for each unary method")
	cert := flags.String("cert", "", "PEM certificate; empty serves plaintext")
	key := flags.String("key", "", "PEM key")
	overSSH := flags.Bool("ssh", false, "run commands over SSH, a fresh connection each, instead of a raw relay")
	if err := flags.Parse(args); err != nil {
		return err
	}
	stored, err := readAnswers(*answers)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	options := serverOptions()
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
		})))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(service(stored, newHop(*overSSH)), nil)
	defer context.AfterFunc(ctx, server.Stop)()
	// The harness waits for this line.
	fmt.Fprintf(out, "{\"msg\":\"gateway serving\",\"address\":%q}\n", l.Addr().String())
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// serverOptions are the gateway's own transport settings, so that both sides differ only in what they do.
func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(rawcodec.New()),
		grpc.MaxRecvMsgSize(4<<20 + 64<<10),
		grpc.MaxConcurrentStreams(256),
		grpc.InitialWindowSize(1 << 20),
		grpc.InitialConnWindowSize(16 << 20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	}
}

// unary are the methods that answer stored bytes.
var unary = []string{"Health", "GetSandbox", "ListSandboxes", "CreateSandbox"}

// readAnswers reads the files that are there; a method without one answers an empty message.
func readAnswers(dir string) (map[string][]byte, error) {
	stored := map[string][]byte{}
	if dir == "" {
		return stored, nil
	}
	for _, method := range unary {
		data, err := os.ReadFile(filepath.Join(dir, method))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		stored[method] = data
	}
	return stored, nil
}

func service(stored map[string][]byte, h *hop) *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{ServiceName: openshellpb.OpenShell_ServiceDesc.ServiceName, HandlerType: (*any)(nil)}
	for _, method := range unary {
		answer := &rawcodec.Message{Bytes: stored[method]}
		desc.Methods = append(desc.Methods, grpc.MethodDesc{
			MethodName: method,
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var request rawcodec.Message
				if err := decode(&request); err != nil {
					return nil, err
				}
				return answer, nil
			},
		})
	}
	desc.Streams = []grpc.StreamDesc{
		{StreamName: "ConnectSupervisor", Handler: h.connect, ServerStreams: true, ClientStreams: true},
		{StreamName: "RelayStream", Handler: h.relay, ServerStreams: true, ClientStreams: true},
		{StreamName: "ExecSandbox", Handler: h.exec, ServerStreams: true},
	}
	return desc
}
