package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/pause"
)

const (
	exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	defaultPort  = "4317"
	// maxAnswer bounds a collector's answer in bytes.
	maxAnswer = 64 << 10
	// Pauses between attempts to send the same spans.
	firstPause = 250 * time.Millisecond
	lastPause  = 4 * time.Second
)

// exporter sends batches, one at a time.
type exporter struct {
	c        Config
	conn     *grpc.ClientConn
	resource []byte
	headers  metadata.MD
	// away tells that the last export failed, so that one is logged and not all.
	away bool
}

func newExporter(c Config, endpoint *url.URL) (*exporter, error) {
	creds := insecure.NewCredentials()
	if endpoint.Scheme == "https" {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if c.CAFile != "" {
			pem, err := os.ReadFile(c.CAFile)
			if err != nil {
				return nil, fmt.Errorf("read the authorities of the collector: %w", err)
			}
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("read the authorities of the collector: %s holds no certificate", c.CAFile)
			}
		}
		creds = credentials.NewTLS(config)
	}
	target := endpoint.Host
	if endpoint.Port() == "" {
		target += ":" + defaultPort
	}
	conn, err := grpc.NewClient("dns:///"+target, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("sallyport/"+c.Version),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{}), grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("reach the collector: %w", err)
	}
	return &exporter{c: c, conn: conn, resource: c.resource(), headers: metadata.New(c.Headers)}, nil
}

// close gives the connection up.
func (e *exporter) close() {
	if err := e.conn.Close(); err != nil {
		e.c.Logger.Debug("close the connection to the collector of traces", "error", err)
	}
}

// export sends a batch, again where the collector was away, and returns how many spans the collector rejected.
func (e *exporter) export(ctx context.Context, batch []*Span) (rejected int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.c.Timeout)
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, e.headers)
	request := e.c.request(e.resource, batch)
	for delay := firstPause; ; delay = min(2*delay, lastPause) {
		var answer []byte
		if err = e.conn.Invoke(ctx, exportMethod, &request, &answer); err == nil {
			rejected, err = rejectedIn(answer)
			e.report(err)
			return rejected, err
		}
		if !again(err) || !pause.For(ctx, delay) {
			e.report(err)
			return 0, err
		}
	}
}

// again tells whether the same request may be taken later, by OTLP's own list.
func again(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}

func (e *exporter) report(err error) {
	switch {
	case err != nil && !e.away:
		e.c.Logger.Warn("traces cannot be sent; spans are given up until they can", "error", err)
	case err == nil && e.away:
		e.c.Logger.Info("traces are sent again")
	}
	e.away = err != nil
}

// bytesCodec passes messages that are encoded already. On the wire it is the codec of protobuf.
type bytesCodec struct{}

var errNotBytes = errors.New("only encoded messages are carried")

// Marshal implements encoding.CodecV2.
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, errNotBytes
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return errNotBytes
	}
	*b = data.Materialize()
	return nil
}

// Name implements encoding.CodecV2.
func (bytesCodec) Name() string { return "proto" }
