package supervisor_test

import (
	"io"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/supervisor/gatewaytest"
)

// BenchmarkExecTrue is one short command on an exec channel, over TLS.
func BenchmarkExecTrue(b *testing.B) {
	g := gatewaytest.New(b, true)
	start(b, g, nil)
	session := g.Session(b)
	b.ReportAllocs()
	for b.Loop() {
		if res := collect(b, openExec(b, session, &sallyportpb.ExecStart{Command: []string{"/bin/true"}})); res.code != 0 {
			b.Fatalf("code = %d", res.code)
		}
	}
}

const benchSize = 64 << 20

// cpu returns the processor time of this process, both sides of the relay together.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reportCPU reports the time since began for each MB: it says more than throughput on a busy machine.
func reportCPU(b *testing.B, began time.Duration) {
	b.Helper()
	b.ReportMetric(float64(cpu(b)-began)/1e6/float64(b.N)/(benchSize/1e6), "cpu-ms/MB")
}

// BenchmarkExecOutput is a command that writes 64 MiB, over TLS.
func BenchmarkExecOutput(b *testing.B) {
	g := gatewaytest.New(b, true)
	start(b, g, nil)
	session := g.Session(b)
	b.SetBytes(benchSize)
	b.ReportAllocs()
	frames := 0
	defer reportCPU(b, cpu(b))
	defer func() { b.ReportMetric(float64(frames)/float64(b.N), "frames/op") }()
	for b.Loop() {
		r := openExec(b, session, &sallyportpb.ExecStart{Command: []string{"dd", "if=/dev/zero", "bs=64k", "count=1024", "status=none"}})
		n := 0
		for {
			data, err := r.Recv()
			if err != nil {
				break
			}
			n += len(data) - 1
			frames++
		}
		r.Close()
		if n < benchSize {
			b.Fatalf("received %d bytes", n)
		}
	}
}

// BenchmarkRelayOutput is the same bytes over a raw relay from a TCP server: the limit for BenchmarkExecOutput.
func BenchmarkRelayOutput(b *testing.B) {
	g := gatewaytest.New(b, true)
	start(b, g, nil)
	session := g.Session(b)
	port := listenZeros(b)
	b.SetBytes(benchSize)
	b.ReportAllocs()
	defer reportCPU(b, cpu(b))
	for b.Loop() {
		r, err := session.Open(tcpTarget("", port))
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for {
			data, err := r.Recv()
			if err != nil {
				break
			}
			n += len(data)
		}
		r.Close()
		if n != benchSize {
			b.Fatalf("received %d bytes", n)
		}
	}
}

// BenchmarkSSHOutput is the same command over SSH.
func BenchmarkSSHOutput(b *testing.B) {
	g := gatewaytest.New(b, true)
	start(b, g, nil)
	c := sshClient(b, g.Session(b), &openshellpb.RelayOpen{})
	b.SetBytes(benchSize)
	defer reportCPU(b, cpu(b))
	for b.Loop() {
		ses := newSession(b, c)
		out, err := ses.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := ses.Start("head -c " + strconv.Itoa(benchSize) + " /dev/zero"); err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, out); n != benchSize {
			b.Fatalf("received %d bytes: %v", n, err)
		}
	}
}

// listenZeros serves benchSize bytes to each connection.
func listenZeros(tb testing.TB) uint32 {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		chunk := make([]byte, 256<<10)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for range benchSize / len(chunk) {
					if _, err := c.Write(chunk); err != nil {
						return
					}
				}
			}()
		}
	}()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}
