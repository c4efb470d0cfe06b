//go:build linux

package driverkit_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/driverkit"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	socket := socketIn(t)
	if err := driverkit.Probe(ctx, socket); err == nil || !strings.Contains(err.Error(), socket) {
		t.Errorf("nobody serves: got %v, want an error that names the socket", err)
	}
	stop := serve(t, driverkit.Options{Socket: socket}, &driver{watching: make(chan struct{})})
	if err := driverkit.Probe(ctx, socket); err != nil {
		t.Errorf("served: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := driverkit.Probe(ctx, socket); err == nil {
		t.Error("stopped: the driver is well")
	}
}
