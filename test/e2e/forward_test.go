//go:build linux

package e2e_test

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
)

// echoes serves connections of this machine, whose network a sandbox of the process driver shares, until the test ends: it
// gives back what it gets, and ends when the other side does.
func echoes(t *testing.T) int {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	at, ok := lis.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no port")
	}
	return at.Port
}

// through sends data to a port of this machine and returns what comes back, as much as was sent.
func through(port int, data []byte) ([]byte, error) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	n, err := io.ReadFull(conn, got)
	return got[:n], errors.Join(err, <-sent)
}

// TestForward reaches a port of a sandbox from a process in the foreground and one in the background.
func TestForward(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.client(t)
	id := s.createReady(t, "box")
	target := echoes(t)
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)

	cmd := c.command(t, "forward", "service", "box", "--target-port", strconv.Itoa(target), "--local", "0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	port := 0
	for port == 0 && lines.Scan() {
		if n, err := fmt.Sscanf(lines.Text(), "Forwarding port %d to sandbox box", &port); n == 0 {
			t.Logf("%q: %v", lines.Text(), err)
		}
	}
	if got, err := through(port, data); err != nil || string(got) != string(data) {
		t.Errorf("%d of %d bytes came back, error %v", len(got), len(data), err)
	}
	if out := c.must(t, "forward", "list"); !strings.Contains(out, "box") || !strings.Contains(out, "running") {
		t.Errorf("list printed\n%s", out)
	}
	if said := c.fails(t, 1, "forward", "service", "box", "--target-port", "1", "--local", strconv.Itoa(port)); !strings.Contains(said, "cannot listen") {
		t.Errorf("a port that is taken: %q", said)
	}
	c.must(t, "forward", "stop", strconv.Itoa(port))
	if err := cmd.Wait(); err != nil {
		t.Errorf("a forward that was ended: %v", err)
	}

	out := c.must(t, "forward", "service", "box", "--target-port", strconv.Itoa(target), "--local", "0", "-d", "-o", "json")
	var made struct {
		Port int `json:"port"`
		PID  int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Port == 0 {
		t.Fatalf("%s: %v", out, err)
	}
	if got, err := through(made.Port, data[:1000]); err != nil || len(got) != 1000 {
		t.Errorf("%d bytes came back, error %v", len(got), err)
	}
	// A sandbox that is stopped is waited for: the forward is there when it runs again.
	c.must(t, "sandbox", "stop", "box")
	if got, err := through(made.Port, []byte("x")); err == nil && len(got) > 0 {
		t.Errorf("a stopped sandbox answered %q", got)
	}
	c.must(t, "sandbox", "start", "box")
	eventually(t, "the forward works again", func() error {
		got, err := through(made.Port, []byte("back"))
		if err == nil && string(got) != "back" {
			err = fmt.Errorf("%q came back", got)
		}
		return err
	})
	s.remove(t, id, "box")
	// It ends by itself once the sandbox is gone.
	eventually(t, "no forward left", func() error {
		_, _ = through(made.Port, []byte("x"))
		if out := c.must(t, "forward", "list"); out != "No active forwards.\n" {
			return errors.New(out)
		}
		return nil
	})
	if said := c.fails(t, 1, "forward", "start", strconv.Itoa(target), "box", "-d"); !strings.Contains(said, "not found") {
		t.Errorf("a sandbox that is gone: %q", said)
	}
	if out := c.must(t, "forward", "stop", "4"); out != "No forward of port 4 found.\n" {
		t.Errorf("stop of nothing printed %q", out)
	}
	c.fails(t, 2, "forward", "start", "0", "box")
	c.fails(t, 2, "forward", "start", "example.com:80", "box")
}
