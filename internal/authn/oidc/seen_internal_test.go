package oidc

import (
	"fmt"
	"testing"
	"time"
)

// remember returns a memory and what notes that a user was admitted with so many roles.
func remember(t *testing.T) (m *memory, note func(subject string, roles int)) {
	t.Helper()
	rules, err := NewRules([]Issuer{{Name: "i", URL: "https://i.test", Audiences: []string{"a"}, RolesClaim: "roles"}})
	if err != nil {
		t.Fatal(err)
	}
	m = newMemory()
	m.restrict(rules.keep)
	return m, func(subject string, roles int) {
		list := make([]any, roles)
		for i := range list {
			list[i] = "r"
		}
		claims := map[string]any{"iss": "https://i.test", "sub": subject, "roles": list}
		m.note(rules, &token{claims: claims}, time.Unix(1, 0), nil)
	}
}

func TestMemoryIsBoundedInNumber(t *testing.T) {
	t.Parallel()
	m, note := remember(t)
	const more = 5
	for n := range maxSeen + more {
		note(fmt.Sprintf("user-%d", n), 1)
		if n == maxSeen-1 {
			note("user-0", 2) // It stays, having come again.
		}
	}
	if m.recent.Len() != maxSeen || len(m.entries) != maxSeen {
		t.Errorf("%d and %d identities", m.recent.Len(), len(m.entries))
	}
	for subject, want := range map[string]bool{"user-0": true, "user-1": false, "user-5": false, "user-6": true} {
		if _, ok := m.entries[identity{"https://i.test", subject}]; ok != want {
			t.Errorf("%s: %v", subject, ok)
		}
	}
}

func TestMemoryIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	m, note := remember(t)
	const users = 1_200
	for n := range users {
		note(fmt.Sprintf("user-%d", n), 2_000) // A short element of a list takes many times its own bytes.
		note(fmt.Sprintf("user-%d", n), 2_000)
	}
	if m.bytes > maxSeenBytes || m.recent.Len() >= users || m.recent.Len() < users/2 {
		t.Errorf("%d identities, %d bytes", m.recent.Len(), m.bytes)
	}
	sum := 0
	for element := m.recent.Front(); element != nil; element = element.Next() {
		sum += of(element).size()
	}
	if sum != m.bytes {
		t.Errorf("%d bytes are counted, %d there", m.bytes, sum)
	}
	none, err := NewRules(nil)
	if err != nil {
		t.Fatal(err)
	}
	before := m.bytes
	m.restrict(none.keep)
	if m.bytes >= before/100 {
		t.Errorf("%d bytes are left of claims that nobody looks at", m.bytes)
	}
}
