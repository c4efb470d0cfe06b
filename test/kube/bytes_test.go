//go:build linux

package kube_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// many is how many bytes are sent: 100 MB.
const many = 100_000_000

// manyBytes sends bytes that do not compress through the relay into a pod and back.
func (r *release) manyBytes(t *testing.T, m *terminal) {
	r.create(t, m, "bytes")
	sum := sha256.New()
	source := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), many), sum)
	e := m.run(t, source, "", "sandbox", "exec", "-n", "bytes", "--no-tty", "--", "sh", "-c", "cat >/tmp/many && sha256sum </tmp/many")
	want := hex.EncodeToString(sum.Sum(nil))
	if e.code != 0 || !strings.HasPrefix(e.out, want) {
		t.Fatalf("the sandbox got something else: exit code %d, sum %s, want %s\n%s", e.code, e.out, want, e.errOut)
	}
	// Not through m.run, which would hold all of it in memory.
	back := sha256.New()
	cmd := exec.CommandContext(t.Context(), m.program, "sandbox", "exec", "-n", "bytes", "--no-tty", "--", "cat", "/tmp/many")
	cmd.Env, cmd.Stdout, cmd.Stderr = m.env, back, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(back.Sum(nil)); got != want {
		t.Errorf("what came back has the sum %s, want %s", got, want)
	}
}
