package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/devidp"
)

func (d *demo) list(ctx context.Context) (string, error) {
	resp, err := d.user.ListSandboxes(ctx, &openshellpb.ListSandboxesRequest{})
	if err != nil {
		return "", fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range resp.GetSandboxes() {
		if s.GetMetadata().GetId() == d.id() {
			word := strings.TrimPrefix(phase(s).String(), "SANDBOX_PHASE_")
			return fmt.Sprintf("%d in the list, among them %s, %s", len(resp.GetSandboxes()), d.name, word), nil
		}
	}
	return "", fmt.Errorf("%s is not among the %d in the list", d.name, len(resp.GetSandboxes()))
}

// leaveBehind starts a process that outlives its command, in a session of its own where that can be had.
const leaveBehind = `if command -v setsid >/dev/null; then setsid sleep 3600 </dev/null >/dev/null 2>&1 &
else sleep 3600 </dev/null >/dev/null 2>&1 & fi`

// deleteSandbox looks at the machine itself, not at what the gateway says.
func (d *demo) deleteSandbox(ctx context.Context) (string, error) {
	if err := d.exec(ctx, leaveBehind, io.Discard, io.Discard); err != nil {
		return "", err
	}
	pids, err := sandboxProcesses(d.id())
	if err != nil {
		return "", err
	}
	if len(pids) == 0 {
		return "", fmt.Errorf("no process carries %s%s, so that none could be seen to go", sandboxMarker, d.id())
	}
	for _, pid := range pids {
		d.groups = append(d.groups, driverGroups(pid)...)
	}
	if err := d.remove(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d with a background process before, none after", len(pids)), nil
}

// remove deletes the sandbox and waits until the gateway does not know it and none of its processes runs.
func (d *demo) remove(ctx context.Context) error {
	if _, err := d.user.DeleteSandbox(ctx, &openshellpb.DeleteSandboxRequest{Name: d.name}); err != nil && status.Code(err) != codes.NotFound {
		return fmt.Errorf("delete sandbox: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := d.user.GetSandbox(ctx, &openshellpb.GetSandboxRequest{Name: d.name})
		pids, scanErr := sandboxProcesses(d.id())
		if scanErr != nil {
			return scanErr
		}
		if status.Code(err) == codes.NotFound && len(pids) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the sandbox to go: %d processes left, gateway says %w", len(pids), orSuccess(err))
		case <-tick.C:
		}
	}
}

func (d *demo) otherTenant(ctx context.Context) (_ string, err error) {
	other, err := signIn(ctx, d.sys, devidp.TenantBClient, "user@tenant-b", "user")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, other.close()) }()
	_, err = other.ListSandboxes(ctx, &openshellpb.ListSandboxesRequest{})
	if st := status.Convert(err); st.Code() == codes.Unauthenticated {
		return fmt.Sprintf("token for audience %v: %s", other.claims.Aud, st.Message()), nil
	}
	return "", fmt.Errorf("wanted UNAUTHENTICATED, got: %w", orSuccess(err))
}

// cleanUp removes what the scenario made, as far as it got.
func (d *demo) cleanUp(ctx context.Context) (string, error) {
	var errs []error
	if d.sandbox != nil {
		errs = append(errs, d.remove(ctx))
	}
	if d.admin != nil {
		if _, err := d.admin.DeleteProvider(ctx, &openshellpb.DeleteProviderRequest{Name: d.provider}); err != nil && status.Code(err) != codes.NotFound {
			errs = append(errs, fmt.Errorf("delete provider: %w", err))
		}
		errs = append(errs, d.admin.close())
	}
	if d.user != nil {
		errs = append(errs, d.user.close())
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return "sandbox and provider removed", nil
}
