package driver_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driver"
)

func TestStateAndTrace(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	var seen []string
	f.answers(func(ctx context.Context) (*computepb.GetCapabilitiesResponse, error) {
		seen = metadata.ValueFromIncomingContext(ctx, "traceparent")
		return nil, status.Error(codes.NotFound, "no")
	})
	var ended []error
	c, client := dial(t, driver.Config{
		Name: "compute", Socket: f.socket,
		Trace: func(ctx context.Context, name, method string) (context.Context, func(error)) {
			if name != "compute" || method != "/openshell.compute.v1.ComputeDriver/GetCapabilities" {
				t.Errorf("traced %s %s", name, method)
			}
			return metadata.AppendToOutgoingContext(ctx, "traceparent", "here"), func(err error) { ended = append(ended, err) }
		},
	})
	if s := c.State(); s.Connected || s.Connections != 0 {
		t.Errorf("before the driver is there: %+v", s)
	}
	f.start(t)
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.GetCapabilities(t.Context(), &computepb.GetCapabilitiesRequest{}); driver.CodeOf(err) != codes.NotFound {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0] != "here" || len(ended) != 1 || driver.CodeOf(ended[0]) != codes.NotFound {
		t.Errorf("the driver saw %v, ended %v", seen, ended)
	}
	if s := c.State(); s != (driver.State{Connected: true, Connections: 1}) {
		t.Errorf("afterwards: %+v", s)
	}
}
