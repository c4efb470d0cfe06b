package provider_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/keyring"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

func keyOf(b byte) []byte { return bytes.Repeat([]byte{b}, provider.KeySize) }

// with closes the house and opens it with other keys, the first of which encrypts.
func (h *house) with(keys ...byte) {
	h.t.Helper()
	if err := h.tryWith(keys...); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) tryWith(keys ...byte) error {
	h.t.Helper()
	h.close()
	h.key, h.old = keyOf(keys[0]), nil
	for _, k := range keys[1:] {
		h.old = append(h.old, keyOf(k))
	}
	return h.tryOpen()
}

// stored is what a provider looks like at rest.
func (h *house) stored(name string) map[string]map[string]string {
	h.t.Helper()
	o, err := h.store.ByName(provider.Kind, "default", name)
	if err != nil {
		h.t.Fatal(err)
	}
	var r struct {
		Credentials map[string]map[string]string `json:"credentials"`
	}
	if err := json.Unmarshal(o.Payload, &r); err != nil {
		h.t.Fatal(err)
	}
	return r.Credentials
}

// unnamed rewrites all rows as earlier versions wrote them.
func (h *house) unnamed() {
	h.t.Helper()
	for _, o := range h.store.List(provider.Kind, store.Query{AllWorkspaces: true}) {
		_, err := h.store.Update(h.t.Context(), provider.Kind, o.ID, func(o *store.Object) error {
			for _, k := range []byte{1, 2, 7} {
				o.Payload = bytes.ReplaceAll(o.Payload, []byte(`,"key":"`+keyring.ID(keyOf(k))+`"`), nil)
			}
			return nil
		})
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *house) reseal(want int) {
	h.t.Helper()
	if n, err := h.Reseal(h.t.Context()); err != nil || n != want {
		h.t.Fatalf("encrypted %d providers anew, want %d: %v", n, want, err)
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	for name, earlier := range map[string]bool{"rows with names of keys": false, "rows of an earlier version": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.with(1)
			for n := range 40 {
				h.create(fmt.Sprintf("p%d", n), map[string]string{"A": canary, "B": fmt.Sprintf("value-%d", n), "R": "driver://credentials/live"})
			}
			if earlier {
				h.unnamed()
			}
			h.reseal(0)
			// First every gateway learns the new key, then one encrypts with it.
			h.with(1, 2)
			h.reseal(0)
			h.with(2, 1)
			version := h.version("p3")
			if e := h.env("p3"); e.Values["B"] != "value-3" {
				t.Errorf("%v %v", e.Values, e.Failures)
			}
			h.reseal(40)
			h.reseal(0)
			if h.version("p3") != version+1 {
				t.Error("the write was not one")
			}
			rows := h.stored("p3")
			if rows["A"]["key"] != keyring.ID(keyOf(2)) || rows["R"]["reference"] != "live" || rows["R"]["key"] != "" {
				t.Errorf("at rest %v", rows)
			}
			h.with(2)
			for n := range 40 {
				if e := h.env(fmt.Sprintf("p%d", n)); e.Values["A"] != canary || e.Values["B"] != fmt.Sprintf("value-%d", n) {
					t.Errorf("p%d: %v", n, e.Failures)
				}
			}
			if err := h.tryWith(1); err == nil {
				t.Error("the old key alone is enough")
			}
		})
	}
}

func (h *house) version(name string) uint64 {
	h.t.Helper()
	p, err := h.Get(h.t.Context(), "", name)
	if err != nil {
		h.t.Fatal(err)
	}
	return p.Version
}

// TestWrongKey starts with a key that did not encrypt what is there.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	for name, earlier := range map[string]bool{"rows with names of keys": false, "rows of an earlier version": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.with(1)
			h.create("a", map[string]string{"A": canary})
			h.create("b", map[string]string{"A": canary, "B": canary, "R": "driver://credentials/live"})
			wanted := "the key " + keyring.ID(keyOf(1))
			if earlier {
				h.unnamed()
				wanted = "a key without a name"
			}
			before := fmt.Sprint(h.stored("a"), h.stored("b"))
			err := h.tryWith(2, 3)
			if err == nil || !strings.Contains(err.Error(), "3 stored credentials are encrypted with "+wanted+", and the gateway was given "+keyring.ID(keyOf(2))+", "+keyring.ID(keyOf(3))) {
				t.Fatalf("got %v", err)
			}
			if after := fmt.Sprint(h.stored("a"), h.stored("b")); after != before {
				t.Errorf("changed to %s", after)
			}
			h.lost = true
			h.with(2)
			h.reseal(0)
			if e := h.env("a"); len(e.Failures) != 1 || e.Failures[0].Err.Reason != "CREDENTIAL_UNREADABLE" {
				t.Errorf("%v", e.Failures)
			}
			// Setting them again mends it.
			for name, keys := range map[string][]string{"a": {"A"}, "b": {"A", "B"}} {
				values := map[string]string{}
				for _, k := range keys {
					values[k] = "new"
				}
				if _, err := h.Update(t.Context(), provider.Update{Name: name, Credentials: values}); err != nil {
					t.Fatal(err)
				}
			}
			h.lost = false
			h.with(2)
		})
	}
}

// TestDamagedRow does not keep a gateway from starting.
func TestDamagedRow(t *testing.T) {
	t.Parallel()
	for name, earlier := range map[string]bool{"rows with names of keys": false, "rows of an earlier version": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.with(1)
			h.create("a", map[string]string{"A": canary})
			b := h.create("b", map[string]string{"A": canary})
			if earlier {
				h.unnamed()
			}
			if _, err := h.store.Update(t.Context(), provider.Kind, b.ID, func(o *store.Object) error {
				o.Payload = bytes.Replace(o.Payload, []byte(`"A":`), []byte(`"C":`), 1)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			h.with(2, 1)
			h.reseal(1)
			if e := h.env("a"); e.Values["A"] != canary {
				t.Errorf("%v", e.Failures)
			}
		})
	}
}

// BenchmarkCheckKeys is what a start costs with 10,000 providers of two literals.
func BenchmarkCheckKeys(b *testing.B) {
	db, err := sqlite.Open(b.Context(), "sqlite::memory:")
	if err != nil {
		b.Fatal(err)
	}
	st, err := store.Open(b.Context(), db, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	log := slog.New(slog.DiscardHandler)
	r := credential.NewResolver(credential.Options{Logger: log})
	defer r.Close()
	o := provider.Options{Store: st, Resolver: r, Key: keyOf(1), OldKeys: [][]byte{keyOf(2)}, Logger: log, InUse: func(string, string) []string { return nil }, Access: everybody{}, Use: everywhere}
	s, err := provider.New(o)
	if err != nil {
		b.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(64)
	for n := range 10_000 {
		group.Go(func() error {
			_, err := s.Create(b.Context(), provider.Provider{Name: fmt.Sprintf("p%d", n), Type: "t", Credentials: map[string]string{"A": canary, "B": canary}})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := provider.New(o); err != nil {
			b.Fatal(err)
		}
	}
}
