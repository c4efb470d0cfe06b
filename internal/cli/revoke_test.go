package cli_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/gen/sallyportpb"
)

// revocations are the fake gateway's; it shows one on each page.
type revocations struct {
	mu  sync.Mutex
	all []*sallyportpb.Revocation
}

func (g *gateway) Revoke(_ context.Context, r *sallyportpb.RevokeRequest) (*sallyportpb.RevokeResponse, error) {
	g.revoked.mu.Lock()
	defer g.revoked.mu.Unlock()
	stored := r.GetRevocation()
	stored.Id = fmt.Sprintf("r-%d", len(g.revoked.all))
	stored.CreatedAtMs, stored.CreatedBy = time.Now().UnixMilli(), "idp|admin"
	g.revoked.all = append(g.revoked.all, stored)
	return &sallyportpb.RevokeResponse{Revocation: stored, StreamsEnded: 2}, nil
}

func (g *gateway) Restore(_ context.Context, r *sallyportpb.RestoreRequest) (*sallyportpb.RestoreResponse, error) {
	g.revoked.mu.Lock()
	defer g.revoked.mu.Unlock()
	for i, stored := range g.revoked.all {
		if stored.GetId() == r.GetId() {
			g.revoked.all = append(g.revoked.all[:i], g.revoked.all[i+1:]...)
			return &sallyportpb.RestoreResponse{}, nil
		}
	}
	return nil, refusal(codes.NotFound, "there is no such revocation", "REVOCATION_NOT_FOUND", "list the revocations")
}

func (g *gateway) ListRevocations(_ context.Context, r *sallyportpb.ListRevocationsRequest) (*sallyportpb.ListRevocationsResponse, error) {
	g.revoked.mu.Lock()
	defer g.revoked.mu.Unlock()
	at := 0
	if _, err := fmt.Sscan(r.GetPageToken(), &at); err != nil && r.GetPageToken() != "" {
		return nil, err
	}
	out := &sallyportpb.ListRevocationsResponse{}
	if at < len(g.revoked.all) {
		out.Revocations = g.revoked.all[at : at+1]
	}
	if at+1 < len(g.revoked.all) {
		out.NextPageToken = fmt.Sprint(at + 1)
	}
	return out, nil
}
