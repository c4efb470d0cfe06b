//go:build linux

package kube_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// shellImage is a sandbox's image: a shell and the usual tools, no user of the product's own.
var shellImage = sync.OnceValues(func() (string, error) {
	out, err := tell("./image", "--busybox", "sallyport/shell:dev")
	return strings.TrimSpace(out), err
})

func shell(t *testing.T) string {
	t.Helper()
	name, err := shellImage()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// products are the images of the product that a release needs.
var products = []string{"gateway", "supervisor", "driver-kubernetes", "driver-oauth2"}

// productImages gives the archives that make e2e-kube wrote to the cluster, once for all tests.
var productImages = sync.OnceValue(func() error {
	for _, name := range products {
		archive := filepath.Join("..", "..", "build", "kube", "images", name+".tar")
		if _, err := os.Stat(archive); err != nil {
			return err
		}
		if _, err := tell("./image", "--archive", archive, "sallyport/"+name+":"+imageTag); err != nil {
			return err
		}
	}
	return nil
})

// imageTag is the tag under which the cluster knows the product's images, imageRegistry what stands before their names.
const imageTag, imageRegistry = "dev", "localhost"
