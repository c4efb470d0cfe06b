//go:build linux

package kube_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/test/keycloak"
)

const (
	// many is how many bytes go each way: 100 MB.
	many = 100_000_000
	// piece is how many bytes one message carries.
	piece = 64 << 10
)

// manyBytes has bytes that do not compress pass the relay, out of a pod and into it.
func (r *release) manyBytes(t *testing.T, m *terminal) {
	r.create(t, m, "bytes")
	made := m.sh(t, "bytes", fmt.Sprintf("head -c %d /dev/urandom >/tmp/many && sha256sum </tmp/many", many))
	// Not through m.run, which would hold all of it in memory.
	out := sha256.New()
	cmd := exec.CommandContext(t.Context(), m.program, "sandbox", "exec", "-n", "bytes", "--no-tty", "--", "cat", "/tmp/many")
	cmd.Env, cmd.Stdout, cmd.Stderr = m.env, out, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(out.Sum(nil)); !strings.HasPrefix(made, got) {
		t.Errorf("what came out has the sum %s, in the sandbox it is %s", got, made)
	}

	admin, err := r.realm.Password(t.Context(), keycloak.People, "admin@test", keycloak.Everything)
	if err != nil {
		t.Fatal(err)
	}
	sent := sha256.New()
	source := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), many), sent)
	got, err := r.feed(t, admin.Access, "bytes", source, "sha256sum")
	if want := hex.EncodeToString(sent.Sum(nil)); err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("what went in has the sum %s there, want %s; error %v", got, want, err)
	}
}

// feed runs a command in a sandbox with as much standard input as there is, and returns its output.
func (r *release) feed(t *testing.T, token, sandbox string, in io.Reader, command ...string) (string, error) {
	t.Helper()
	ctx, client := as(t.Context(), token), r.dial(t)
	found, err := client.GetSandbox(ctx, &openshellpb.GetSandboxRequest{Name: sandbox})
	if err != nil {
		return "", err
	}
	stream, err := client.ExecSandboxInteractive(ctx)
	if err != nil {
		return "", err
	}
	if err := stream.Send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Start{
		Start: &openshellpb.ExecSandboxRequest{SandboxId: found.GetSandbox().GetMetadata().GetId(), Command: command},
	}}); err != nil {
		return "", err
	}
	buffer := make([]byte, piece)
	for {
		n, err := in.Read(buffer)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = stream.Send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Stdin{Stdin: buffer[:n]}})
		}
		if err != nil {
			return "", err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		event, err := stream.Recv()
		if err != nil {
			return out.String(), err
		}
		out.Write(event.GetStdout().GetData())
		if end := event.GetExit(); end != nil && end.GetExitCode() != 0 {
			return out.String(), fmt.Errorf("exit code %d", end.GetExitCode())
		} else if end != nil {
			return out.String(), nil
		}
	}
}
