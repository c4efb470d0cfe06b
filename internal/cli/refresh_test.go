package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/cli/internal/idptest"
	"sallyport.dev/sallyport/internal/cli/profile"
)

// Several processes with one old token must renew it once: its refresh token is good for one use only.
func TestProcessesRenewOnce(t *testing.T) {
	t.Parallel()
	idp := idptest.Start(t)
	_, at := startGateway(t, idp)
	config := t.TempDir()
	root := profile.At(filepath.Join(config, "openshell"), "")
	for _, err := range []error{
		root.Save(profile.Metadata{
			Name: "dev", Endpoint: at.secure, AuthMode: profile.AuthOIDC, OIDCIssuer: idp.Issuer(), OIDCClientID: "openshell-cli",
		}),
		root.SaveCA("dev", at.ca),
		root.SetActive("dev"),
		root.SaveToken("dev", profile.Token{
			AccessToken: "old", RefreshToken: idp.Grant(), Issuer: idp.Issuer(), ClientID: "openshell-cli",
			Expiry: time.Now().Add(-time.Minute),
		}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), self, "whoami")
			cmd.Args[0] = "sallyport"
			cmd.Env = []string{"XDG_CONFIG_HOME=" + config}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("whoami: %v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	if n := len(idp.Forms()); n != 1 {
		t.Errorf("the token was renewed %d times, want once", n)
	}
}
