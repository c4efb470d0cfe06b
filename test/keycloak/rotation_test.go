//go:build linux

package keycloak_test

import (
	"fmt"
	"testing"
	"time"
)

// TestRotation rotates a realm's keys under a gateway that is never restarted.
func TestRotation(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t).small(t, "rotation")
	f := newFront(t, r)
	// The shortest time between refreshes, so that a key that is withdrawn is noticed within the test.
	d := open(t, r, append(f.discovery(r), "--oidc-scopes-claim", "", "--oidc-jwks-ttl", "10")...)
	first := r.machine(t, machineClient)
	d.wantIn("the first key", first)

	r.addKey(t, rsaKey("second", "200"))
	second := r.machine(t, machineClient)
	if part(t, first, 0)["kid"] == part(t, second, 0)["kid"] {
		t.Fatal("the realm still signs with the first key")
	}
	before := f.keys.Load()
	d.wantIn("the second key", second)
	if fetches := f.keys.Load() - before; fetches > 1 {
		t.Errorf("%d fetches for one new key, want at most one", fetches)
	}
	d.wantIn("the first key beside the second", first)

	r.disableKey(t, "first")
	eventually(t, "the first key withdrawn", func() error { return d.denied(first, "TOKEN_KEY_UNKNOWN") })
	d.wantIn("the second key alone", second)
}

// TestRotationAtOnce presents a new key within the time of an hour-long refresh: one fetch for it, and none more for
// tokens whose key does not exist.
func TestRotationAtOnce(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t).small(t, "rotation-at-once")
	f := newFront(t, r)
	d := open(t, r, append(f.discovery(r), "--oidc-scopes-claim", "")...)
	d.wantIn("the first key", r.machine(t, machineClient))
	before := f.keys.Load()
	r.addKey(t, rsaKey("second", "200"))
	second := r.machine(t, machineClient)
	errs := make(chan error, 50)
	for range cap(errs) {
		go func() { errs <- d.list(second) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Errorf("one of many callers with the new key: %v", err)
		}
	}
	if fetches := f.keys.Load() - before; fetches != 1 {
		t.Errorf("%d fetches for one new key of %d callers, want one", fetches, cap(errs))
	}
	// A second rotation within seconds has to wait for its turn: callers are refused, not served slowly.
	r.addKey(t, rsaKey("third", "300"))
	third := r.machine(t, machineClient)
	for range 20 {
		if err := d.list(third); err != nil && reasonOf(err) != "TOKEN_KEY_UNKNOWN" {
			t.Errorf("a key within the interval: %v", err)
		}
	}
	if fetches := f.keys.Load() - before; fetches > 2 {
		t.Errorf("%d fetches for two keys", fetches)
	}
	eventually(t, "the third key known", func() error { return d.list(third) })
}

// TestKeysDeleted takes all keys away: a real empty set must not replace a good one.
func TestKeysDeleted(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t).small(t, "deleted")
	f := newFront(t, r)
	d := open(t, r, append(f.discovery(r), "--oidc-scopes-claim", "", "--oidc-jwks-ttl", "10")...)
	token := r.machine(t, machineClient)
	d.wantIn("before", token)
	r.deleteKeys(t)
	if n := r.published(t); n != 0 {
		t.Fatalf("%d keys are published, want none", n)
	}
	before := f.keys.Load()
	eventually(t, "the empty set fetched twice", func() error {
		if n := f.keys.Load() - before; n < 2 {
			return fmt.Errorf("%d fetches", n)
		}
		return nil
	})
	d.wantIn("with the last good keys", token)
	d.waitReady()
	// The next token makes Keycloak invent a key; the realm is whole again without the gateway's help.
	fresh := r.machine(t, machineClient)
	eventually(t, "the new key known", func() error { return d.list(fresh) })
	eventually(t, "the old key gone", func() error { return d.denied(token, "TOKEN_KEY_UNKNOWN") })
}

// TestForeignKey adds a key of a kind that the gateway does not know; it spoils neither the others nor itself.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t).small(t, "foreign")
	r.addKey(t, component{"name": "ed448", "providerId": "eddsa-generated", "config": map[string]any{
		"priority": []any{"50"}, "eddsaEllipticCurveKey": []any{"Ed448"},
	}})
	if n := r.published(t); n < 2 {
		t.Fatalf("%d keys are published, want the foreign one too", n)
	}
	d := open(t, r, "--oidc-scopes-claim", "")
	d.wantIn("a known key beside a foreign one", r.machine(t, machineClient))
}

// TestDisabledRealm: Keycloak still publishes the keys of a realm that it has shut. Tokens are good until they expire.
func TestDisabledRealm(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t).small(t, "shut")
	d := open(t, r, "--oidc-scopes-claim", "")
	token := r.machine(t, machineClient)
	r.admin(t, "PUT", "/"+r.Name, map[string]any{"enabled": false}, nil)
	if _, err := r.Program(t.Context(), machineClient); err == nil {
		t.Error("a disabled realm issues tokens")
	}
	d.wantIn("a token from before", token)
	open(t, r, "--oidc-scopes-claim", "").wantIn("a token from before, at a new gateway", token)
}

// TestRealmRecreated makes the realm anew, with other keys under the same issuer.
func TestRealmRecreated(t *testing.T) {
	t.Parallel()
	shared := sharedRealm(t)
	r := shared.small(t, "recreated")
	d := open(t, r, "--oidc-scopes-claim", "", "--oidc-jwks-ttl", "10")
	old := r.machine(t, machineClient)
	d.wantIn("the old realm", old)
	r.admin(t, "DELETE", "/"+r.Name, nil, nil)
	d.wantIn("without its realm", old)
	shared.create(t, r.Name)
	fresh := r.machine(t, machineClient)
	began := time.Now()
	eventually(t, "the new realm's key known", func() error { return d.list(fresh) })
	t.Logf("known after %s", time.Since(began).Round(time.Millisecond))
	eventually(t, "the old realm's key gone", func() error { return d.denied(old, "TOKEN_KEY_UNKNOWN") })
}
