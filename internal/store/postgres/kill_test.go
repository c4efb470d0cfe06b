package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
)

// writerEnv names the database that a test binary started as writer fills.
const writerEnv = "POSTGRES_TEST_WRITER_URL"

// runWriter writes until it is killed when this process is the writer, and reports whether it was one. Each answered
// write is a line on standard output: the id and the version that is durable.
func runWriter() bool {
	url := os.Getenv(writerEnv)
	if url == "" {
		return false
	}
	ctx := context.Background()
	db, err := postgres.Open(ctx, url, postgres.Options{Name: "writer"})
	if err != nil {
		fmt.Println("error:", err)
		return true
	}
	s, err := store.Open(ctx, db, store.Options{})
	if err != nil {
		fmt.Println("error:", err)
		return true
	}
	var out sync.Mutex
	report := func(o *store.Object) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf("%s %d\n", o.ID, o.Version)
	}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				pair, err := s.Write(ctx, store.Create(object(id)), store.Create(&store.Object{Kind: "k", ID: id + "-twin", Payload: []byte(id)}))
				if err != nil {
					fmt.Println("error:", err)
					return
				}
				report(pair[0])
				o, err := s.Update(ctx, "k", id, func(*store.Object) error { return nil })
				if err != nil {
					fmt.Println("error:", err)
					return
				}
				report(o)
			}
		})
	}
	writers.Wait()
	return true
}

// TestGatewayKilled kills a process that owns the database again and again: the next owner need not wait for long, every
// answered write is there, and pairs are whole.
func TestGatewayKilled(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	answered := map[string]uint64{}
	for round := range 4 {
		writeAndKill(t, s.URL(name), 50+100*round, answered)
		opts := quick()
		opts.LeaseWait = time.Minute
		st, err := store.Open(t.Context(), open(t, s.URL(name), opts), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for id, version := range answered {
			o, err := st.Get("k", id)
			if err != nil {
				t.Fatalf("round %d: answered write is lost: %v", round, err)
			}
			if o.Version < version {
				t.Errorf("round %d: %s has version %d, %d was answered", round, id, o.Version, version)
			}
			if _, err := st.Get("k", id+"-twin"); err != nil {
				t.Errorf("round %d: half a transaction: %v", round, err)
			}
		}
		t.Logf("round %d: %d answered, %d stored", round, len(answered), st.Count("k"))
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// writeAndKill runs a writer until it has answered so many writes, and adds all that it answered.
func writeAndKill(t *testing.T, url string, after int, answered map[string]uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if n == after {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
		var id string
		var version uint64
		if _, err := fmt.Sscanf(lines.Text(), "%s %d", &id, &version); err != nil {
			t.Errorf("writer said %q", lines.Text())
			continue
		}
		answered[id] = version
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("writer ended by itself")
	}
}
