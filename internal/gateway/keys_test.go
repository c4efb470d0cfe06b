package gateway_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
)

// turn runs a gateway on a folder until do returns, with a key of credentials that may be empty.
func turn(t *testing.T, dir, key string, do func(openshellpb.OpenShellClient), args ...string) (log string, err error) {
	t.Helper()
	args = append([]string{
		"--disable-tls", "--drivers", "external", "--compute-driver-socket", filepath.Join(dir, "c.sock"),
		"--db-url", "sqlite:" + filepath.Join(dir, "x.db"), "--allow-unauthenticated-users", "--shutdown-grace-secs", "1",
	}, args...)
	cfg, err := config.Parse(args, func(k string) (string, bool) {
		if k == "OPENSHELL_GATEWAY_CREDENTIAL_KEY_ENCRYPTION_KEY" && key != "" {
			return key, true
		}
		return dir, k == "HOME"
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	g, err := gateway.New(t.Context(), cfg, gateway.Options{Version: "test", Logger: slog.New(slog.NewTextHandler(&out, nil)), Listener: l})
	if err != nil {
		l.Close()
		return out.String(), err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	do(openshellpb.NewOpenShellClient(conn))
	conn.Close()
	cancel()
	err = <-done
	return out.String(), err
}

// TestCredentialKeyMoves from the state directory to a variable, as when a gateway goes to Kubernetes, and is changed there.
func TestCredentialKeyMoves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := func(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) }
	create := func(c openshellpb.OpenShellClient) {
		_, err := c.CreateProvider(t.Context(), &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
			Metadata: &datamodelpb.ObjectMeta{Name: "p"}, Type: "generic", Credentials: map[string]string{"A": "secret-value"},
		}})
		if err != nil {
			t.Error(err)
		}
	}
	ask := func(c openshellpb.OpenShellClient) {
		if _, err := c.GetProvider(t.Context(), &openshellpb.GetProviderRequest{Name: "p"}); err != nil {
			t.Error(err)
		}
	}
	if _, err := turn(t, dir, "", create); err != nil {
		t.Fatal(err)
	}
	// It is done in the background, and at the latest at the next start.
	changed := func(key string) {
		t.Helper()
		for range 20 {
			log, err := turn(t, dir, key, ask)
			if err != nil || strings.Contains(log, "secret-value") {
				t.Fatalf("%v:\n%s", err, log)
			}
			if strings.Contains(log, "older keys are needed no more") {
				return
			}
		}
		t.Fatal("the credentials are never encrypted with the new key")
	}
	changed(text(1))
	if err := os.Remove(filepath.Join(dir, "credential.key")); err != nil {
		t.Fatal(err)
	}
	changed(text(2) + "," + text(1))
	if _, err := turn(t, dir, text(2), ask); err != nil {
		t.Error(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = turn(t, dir, text(1), ask)
	if err == nil || !strings.Contains(err.Error(), "1 stored credentials are encrypted with the key") {
		t.Errorf("the old key: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "x.db")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the database changed: %v", err)
	}
	if _, err := turn(t, dir, text(1), ask, "--accept-lost-credentials"); err != nil {
		t.Error(err)
	}
}
