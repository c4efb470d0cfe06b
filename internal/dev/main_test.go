package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also the main function of the stand-ins for the other commands, which are links to the test binary.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); slices.Contains(standIns, name) {
		if err := standIn(); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var standIns = []string{"sallyport-gateway", "sallyport-driver-process", "sallyport-driver-oauth2"}

// standIn answers readiness on --health-port, listens on --socket, and stops when it is told to.
func standIn() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if path := argument("--socket"); path != "" {
		_ = os.Remove(path)
		lis, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		defer lis.Close()
	}
	if port := argument("--health-port"); port != "" {
		srv := &http.Server{Addr: "127.0.0.1:" + port, ReadHeaderTimeout: time.Second}
		srv.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		go func() { <-ctx.Done(); _ = srv.Close() }()
		if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
	<-ctx.Done()
	return nil
}

func argument(name string) string {
	if i := slices.Index(os.Args, name); i >= 0 && i+1 < len(os.Args) {
		return os.Args[i+1]
	}
	return ""
}
