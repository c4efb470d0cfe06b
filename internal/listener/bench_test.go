package listener_test

import (
	"crypto/tls"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// A call that does nothing, client and server together.
func BenchmarkCall(b *testing.B) {
	a := newAuthority(b)
	for _, c := range []struct {
		name   string
		server *tls.Config
		client credentials.TransportCredentials
	}{
		{"plaintext", nil, insecure.NewCredentials()},
		{"TLS", &tls.Config{Certificates: []tls.Certificate{a.issue(b, "server")}}, credentials.NewTLS(&tls.Config{RootCAs: a.pool})},
	} {
		b.Run(c.name, func(b *testing.B) {
			cc, err := grpc.NewClient(serve(b, c.server), grpc.WithTransportCredentials(c.client))
			if err != nil {
				b.Fatal(err)
			}
			defer cc.Close()
			client := openshellpb.NewOpenShellClient(cc)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Health(b.Context(), &openshellpb.HealthRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
