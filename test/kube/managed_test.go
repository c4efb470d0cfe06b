//go:build linux

package kube_test

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestManagedNamespaces has the driver make a namespace for each workspace, with the rights that the chart gives it.
func TestManagedNamespaces(t *testing.T) {
	t.Parallel()
	require(t)
	prefix, workspaces := unique("spaces")+"-", []string{"blue", "green"}
	r := install(t, "server: {authorizationMode: workspaces, drivers: {kubernetes: {workspaceMode: managed, namespacePrefix: "+prefix+"}}}\n")
	t.Cleanup(func() {
		// Those of a test that failed.
		for _, w := range workspaces {
			if _, err := r.try(context.WithoutCancel(t.Context()), "delete", "namespace", prefix+w, "--ignore-not-found"); err != nil {
				t.Error(err)
			}
		}
	})
	admin := r.signedIn(t, "admin@test")
	for _, w := range workspaces {
		admin.must(t, "workspace", "create", w)
		admin.must(t, "--workspace", w, "sandbox", "create", "--name", "same", "--no-tty", "--timeout", "120", "--", "true")
		if got := admin.must(t, "--workspace", w, "sandbox", "exec", "-n", "same", "--no-tty", "--", "sh", "-c", "echo in "+w); got != "in "+w+"\n" {
			t.Errorf("exec in %s printed %q", w, got)
		}
	}
	for _, w := range workspaces {
		if pods := strings.Fields(r.kubectl(t, "get", "pods", "--namespace", prefix+w, "-o", "jsonpath={.items[*].metadata.name}")); len(pods) != 1 {
			t.Errorf("the namespace of %s has the pods %v, want one", w, pods)
		}
		level := r.kubectl(t, "get", "namespace", prefix+w, "-o", `jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}`)
		if level != "restricted" {
			t.Errorf("the namespace of %s enforces %q", w, level)
		}
	}
	for _, w := range workspaces {
		admin.must(t, "--workspace", w, "sandbox", "delete", "same")
		eventually(t, "workspace "+w+" deleted", func() error {
			if e := admin.run(t, nil, "", "workspace", "delete", w); e.code != 0 {
				return errors.New(e.errOut)
			}
			return nil
		})
		eventually(t, "the namespace of "+w+" is gone", func() error {
			out, err := r.try(t.Context(), "get", "namespace", prefix+w, "--ignore-not-found", "-o", "name")
			if err == nil && out != "" {
				err = errors.New("it is there")
			}
			return err
		})
	}
}
