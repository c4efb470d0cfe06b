package pathcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	// trips is how many calls the round trip is the shortest of.
	trips    = 5
	nextCut  = "raise the idle limit of what cut it: the table of time-outs in docs/operate.md names the setting"
	nextHTTP = "something on the way does not pass gRPC: HTTP/2 to the gateway, with trailers"
)

// dial opens a connection that sends no pings, on which silence is silence. What the gateway sends by itself stays: it is
// part of the path.
func (c *checker) dial() (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c.TLS != nil {
		creds = credentials.NewTLS(c.TLS.Clone())
	}
	return grpc.NewClient("passthrough:///"+c.Address, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), grpc.WithAuthority(c.authority()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.Dial(ctx, "tcp", address) }))
}

// authority is what clients send: the host, with the port where it is not the scheme's own.
func (c *checker) authority() string {
	_, port, err := net.SplitHostPort(c.Address)
	if err == nil && (c.TLS != nil && port == "443" || c.TLS == nil && port == "80") {
		return strings.TrimSuffix(c.Address, ":"+port)
	}
	return c.Address
}

// with runs f with a health client on a connection of its own.
func (c *checker) with(f func(healthpb.HealthClient) Result) Result {
	conn, err := c.dial()
	if err != nil {
		return Result{Status: Failed, Detail: err.Error()}
	}
	defer conn.Close()
	return f(healthpb.NewHealthClient(conn))
}

// unary makes calls, and tells the shortest time of one.
func (c *checker) unary(ctx context.Context) (result Result, trip time.Duration) {
	result = c.with(func(client healthpb.HealthClient) Result {
		for range trips {
			began := time.Now()
			_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
			if err != nil && !answered(err) {
				return Result{Status: Failed, Detail: explain(err), Next: nextHTTP}
			}
			// The first call also connects.
			if took := time.Since(began); trip == 0 || took < trip {
				trip = took
			}
		}
		return Result{Status: Passed, Detail: fmt.Sprintf("gRPC passes, round trip %s", trip.Round(10*time.Microsecond))}
	})
	if result.Status != Passed {
		return result, 0
	}
	return result, trip
}

// stream opens a stream and waits for its first message, which a proxy that gathers answers would hold back.
func (c *checker) stream(ctx context.Context) Result {
	return c.with(func(client healthpb.HealthClient) Result {
		stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		switch {
		case err == nil:
			return Result{Status: Passed, Detail: "the first message of a stream comes at once"}
		case status.Code(err) == codes.Unimplemented:
			return Result{Status: Skipped, Detail: "the gateway has no stream that stays open without a credential"}
		}
		return Result{Status: Failed, Detail: explain(err), Next: "something on the way holds answers back or cuts streams: switch its buffering off"}
	})
}

// large sends a message of the size that clients send for standard input. The health service says that it knows no
// service of that name: whoever says so has read it.
func (c *checker) large(ctx context.Context) Result {
	return c.with(func(client healthpb.HealthClient) Result {
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: strings.Repeat("x", c.Large)})
		if err == nil || status.Code(err) == codes.NotFound {
			return Result{Status: Passed, Detail: fmt.Sprintf("%d bytes pass", c.Large)}
		}
		return Result{Status: Failed, Detail: explain(err), Next: fmt.Sprintf("something on the way limits bodies to less than %d bytes: raise it, or switch the limit off", c.Large)}
	})
}

// idle holds a stream in silence, and then looks whether stream and connection still live.
func (c *checker) idle(ctx context.Context, d time.Duration) Result {
	return c.with(func(client healthpb.HealthClient) Result {
		stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			return Result{Status: Failed, Detail: explain(err)}
		}
		began := time.Now()
		ended := make(chan error, 1)
		go func() {
			for {
				// A change of the gateway's health is no end.
				if _, err := stream.Recv(); err != nil {
					ended <- err
					return
				}
			}
		}()
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case err := <-ended:
			lived := time.Since(began)
			return Result{Status: Failed, Seconds: lived.Seconds(), Detail: fmt.Sprintf("cut after %s: %s", lived.Round(100*time.Millisecond), explain(err)), Next: nextCut}
		case <-timer.C:
		}
		// A path may have forgotten the connection without telling: then nothing comes back.
		probe, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		if _, err := client.Check(probe, &healthpb.HealthCheckRequest{}); err != nil && !answered(err) {
			return Result{Status: Failed, Seconds: d.Seconds(), Detail: "the connection was dead afterwards: " + explain(err), Next: nextCut}
		}
		select {
		case err := <-ended:
			return Result{Status: Failed, Seconds: d.Seconds(), Detail: "the stream was cut: " + explain(err), Next: nextCut}
		default:
			return Result{Status: Passed, Seconds: d.Seconds(), Detail: "the stream survived"}
		}
	})
}

// answered tells whether the gateway itself refused the call, which shows that the path is good.
func answered(err error) bool {
	switch status.Code(err) {
	case codes.NotFound, codes.Unimplemented, codes.ResourceExhausted, codes.PermissionDenied, codes.Unauthenticated:
		return true
	default:
		return false
	}
}

func explain(err error) string {
	if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		return "no answer in time"
	}
	s := status.Convert(err)
	return s.Code().String() + ": " + s.Message()
}
