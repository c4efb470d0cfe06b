package sandboxtoken_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keyPair returns a new key and its public half, both in PEM.
func keyPair(t *testing.T) (private, public []byte) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	pubDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pubDER})
}

func write(t *testing.T, path string, data []byte, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode)
	return path
}

func kid(t *testing.T, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	id, ok := decode(t, head)["kid"].(string)
	if !ok {
		t.Fatal("no kid")
	}
	return id
}

func good(t *testing.T, issuer *sandboxtoken.Issuer, tokens ...string) {
	t.Helper()
	for n, token := range tokens {
		if !issuer.Recognizes(token) {
			t.Errorf("token %d is not recognized", n)
		}
		if _, err := issuer.Verify(token, false); err != nil {
			t.Errorf("token %d: %v", n, err)
		}
	}
}

func bad(t *testing.T, issuer *sandboxtoken.Issuer, token string) {
	t.Helper()
	if issuer.Recognizes(token) {
		t.Error("token is recognized")
	}
	if _, err := issuer.Verify(token, false); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("token verifies: %v", err)
	}
	if p, ok := issuer.Known(token, false); ok {
		t.Errorf("token is known: %v", p)
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"on disk", "in memory"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := ""
			if name == "on disk" {
				dir = filepath.Join(t.TempDir(), "keys")
			}
			issuer := open(t, dir, time.Hour, nil)
			var tokens []string
			ids := issuer.KeyIDs()
			for n := range 3 {
				token, _ := mint(t, issuer)
				tokens = append(tokens, token)
				id, verifying, err := issuer.Rotate()
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
				if diff := cmp.Diff(ids, verifying); diff != "" {
					t.Errorf("rotation %d: keys (-want +got):\n%s", n, diff)
				}
				next, _ := mint(t, issuer)
				if kid(t, next) != id {
					t.Errorf("rotation %d: the new key does not sign", n)
				}
				good(t, issuer, append(tokens, next)...)
				if got := bytes.Count(issuer.KeySet(), []byte(`"kid"`)); got != n+2 {
					t.Errorf("rotation %d: %d keys are published", n, got)
				}
			}
			if dir == "" {
				return
			}
			good(t, open(t, dir, time.Hour, nil), tokens...)
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var files []string
			for _, e := range entries {
				files = append(files, e.Name())
			}
			if diff := cmp.Diff([]string{"0001.pem", "0002.pem", "0003.pem", "0004.pem"}, files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

// A new key's file sorts after whatever an operator named the others.
func TestRotateNamesTheNewKeyLast(t *testing.T) {
	t.Parallel()
	for last, want := range map[string]string{
		"0009.pem": "0010.pem", "9999.pem": "99990001.pem", "key.pem": "key0001.pem", "2026-11.pem": "2026-12.pem",
		"a-99.pem": "a-990001.pem", "18446744073709551615.pem": "184467440737095516150001.pem", "x 7.pem": "x 8.pem",
	} {
		t.Run(last, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			chmod(t, dir, 0o700)
			private, _ := keyPair(t)
			write(t, filepath.Join(dir, last), private, 0o600)
			issuer := open(t, dir, time.Hour, nil)
			id, _, err := issuer.Rotate()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(dir, want)); err != nil {
				t.Error(err)
			}
			if token, _ := mint(t, open(t, dir, time.Hour, nil)); kid(t, token) != id {
				t.Error("after a restart another key signs")
			}
		})
	}
}

func TestReloadFollowsTheDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	issuer := open(t, dir, time.Hour, nil)
	old, _ := mint(t, issuer)
	good(t, issuer, old)
	reload := func(want string) {
		t.Helper()
		err := issuer.Reload()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("reload: %v, want %q", err, want)
		}
	}
	reload("")

	// Another process or an operator adds a key.
	private, _ := keyPair(t)
	second := write(t, filepath.Join(dir, "0002.pem"), private, 0o600)
	reload("")
	token, _ := mint(t, issuer)
	if kid(t, token) == kid(t, old) {
		t.Error("the new key does not sign")
	}
	good(t, issuer, old, token)
	if _, ok := issuer.Known(old, false); !ok {
		t.Error("a new key made the gateway forget tokens of the old one")
	}

	// A key that cannot be used changes nothing.
	third := write(t, filepath.Join(dir, "0003.pem"), []byte("half a k"), 0o600)
	reload("no PKCS#8 private key")
	write(t, third, private, 0o644)
	reload("open to other users")
	good(t, issuer, old, token)
	if _, _, err := issuer.Rotate(); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("rotation beside a broken key: %v", err)
	}
	if err := os.Remove(third); err != nil {
		t.Fatal(err)
	}

	// A key that is gone takes its tokens along, remembered ones too.
	if err := os.Remove(filepath.Join(dir, "0001.pem")); err != nil {
		t.Fatal(err)
	}
	reload("")
	bad(t, issuer, old)
	good(t, issuer, token)
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	reload("no key is left")
	good(t, issuer, token)
}

func TestRunFollowsTheDirectoryAndTellsAProblemOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	private, _ := keyPair(t)
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		issuer, err := sandboxtoken.New(sandboxtoken.Options{
			Dir: dir, GatewayID: "gw-1", TTL: time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() {
			if err := issuer.Run(t.Context()); err != nil {
				t.Error(err)
			}
		})
		write(t, filepath.Join(dir, "0002.pem"), []byte("half a k"), 0o600)
		time.Sleep(time.Minute)
		write(t, filepath.Join(dir, "0002.pem"), private, 0o600)
		time.Sleep(time.Minute)
		if n := len(issuer.KeyIDs()); n != 2 {
			t.Errorf("%d keys, want 2", n)
		}
		synctest.Wait()
	})
	if n := strings.Count(log.String(), "cannot be read again"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
	if !strings.Contains(log.String(), "keys of sandbox tokens changed") {
		t.Errorf("no word of the change:\n%s", log.String())
	}
}

// Two gateways share a directory: what one signs after a rotation is good at the other at once, without a look at the
// disk for each bad token.
func TestAnUnknownKeyMakesTheIssuerLook(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	c := newClock()
	one, other := open(t, dir, time.Hour, c.Now), open(t, dir, time.Hour, c.Now)
	if _, _, err := one.Rotate(); err != nil {
		t.Fatal(err)
	}
	token, _ := mint(t, one)
	good(t, other, token)
	if _, _, err := one.Rotate(); err != nil {
		t.Fatal(err)
	}
	token, _ = mint(t, one)
	if other.Recognizes(token) {
		t.Error("looked twice within a second")
	}
	c.Set(c.Now().Add(time.Second))
	good(t, other, token)
}

func TestRotationsAtTheSameTimeAllCount(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	issuers := []*sandboxtoken.Issuer{open(t, dir, time.Hour, nil), open(t, dir, time.Hour, nil), open(t, dir, time.Hour, nil)}
	var wg sync.WaitGroup
	for _, issuer := range issuers {
		for range 3 {
			wg.Go(func() {
				if _, _, err := issuer.Rotate(); err != nil && !fault.Is(err, fault.Aborted) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	want := open(t, dir, time.Hour, nil).KeyIDs()
	for n, issuer := range issuers {
		if err := issuer.Reload(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, issuer.KeyIDs()); diff != "" {
			t.Errorf("issuer %d (-want +got):\n%s", n, diff)
		}
	}
	if len(want) < 4 {
		t.Errorf("%d keys", len(want))
	}
}

// Whatever rotates meanwhile, a token that was minted is good.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	issuer := open(t, filepath.Join(t.TempDir(), "keys"), time.Hour, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var tokens []string
			for {
				select {
				case <-stop:
					good(t, issuer, tokens...)
					return
				default:
				}
				token, _, err := issuer.Mint(sandboxID)
				if err != nil {
					t.Error(err)
					return
				}
				if len(tokens) < 64 {
					tokens = append(tokens, token)
				}
				if !issuer.Recognizes(token) {
					t.Error("not recognized")
				}
				if _, err := issuer.Verify(token, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if _, _, err := issuer.Rotate(); err != nil {
			t.Error(err)
		}
		if err := issuer.Reload(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestRetire(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	// Files carry the system's time.
	c := &clock{now: time.Now()}
	issuer, err := sandboxtoken.New(sandboxtoken.Options{Dir: dir, GatewayID: "gw-1", TTL: time.Hour, Recovery: 24 * time.Hour, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := mint(t, issuer)
	for range 2 {
		if _, _, err := issuer.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	ids := issuer.KeyIDs()
	if retired, err := issuer.Retire(); err != nil || len(retired) != 0 {
		t.Errorf("at once: %v, %v", retired, err)
	}
	c.Set(c.Now().Add(25 * time.Hour))
	if retired, err := issuer.Retire(); err != nil || len(retired) != 0 {
		t.Errorf("when the last token has just gone: %v, %v", retired, err)
	}
	c.Set(c.Now().Add(5 * time.Minute))
	retired, err := issuer.Retire()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ids[:2], retired); diff != "" {
		t.Errorf("retired (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(ids[2:], issuer.KeyIDs()); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	bad(t, issuer, first)
	if retired, err := issuer.Retire(); err != nil || len(retired) != 0 {
		t.Errorf("the signer: %v, %v", retired, err)
	}
	for name, o := range map[string]sandboxtoken.Options{
		"in memory": {GatewayID: "g", TTL: time.Hour}, "tokens for ever": {Dir: dir, GatewayID: "g"},
	} {
		issuer, err := sandboxtoken.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := issuer.Retire(); !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestThereIsAnEndToRotation(t *testing.T) {
	t.Parallel()
	issuer := open(t, "", time.Hour, nil)
	for n := range 100 {
		if _, _, err := issuer.Rotate(); err != nil {
			if !fault.Is(err, fault.FailedPrecondition) || n < 50 {
				t.Errorf("rotation %d: %v", n, err)
			}
			return
		}
	}
	t.Error("100 keys")
}

func TestKeyFilesOfTheNewerGeneration(t *testing.T) {
	t.Parallel()
	type files struct{ signing, public, id []byte }
	for name, tc := range map[string]struct {
		change func(f *files)
		want   string
	}{
		"all":              {func(*files) {}, ""},
		"the key alone":    {func(f *files) { f.public, f.id = nil, nil }, ""},
		"an id of its own": {func(f *files) { f.id = []byte("key-7\n") }, ""},
		"another public":   {func(f *files) { _, f.public = keyPair(t) }, "not the public half"},
		"no public key":    {func(f *files) { f.public = f.signing }, "no public key"},
		"empty id":         {func(f *files) { f.id = []byte("\n") }, "does not hold one key id"},
		"two ids":          {func(f *files) { f.id = []byte("a b") }, "does not hold one key id"},
		"no key":           {func(f *files) { f.signing = f.public }, "no PKCS#8 private key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			private, public := keyPair(t)
			block, _ := pem.Decode(public)
			f := files{signing: private, public: public, id: fmt.Appendf(nil, "%s\n", idOf(block.Bytes))}
			tc.change(&f)
			// A Kubernetes secret: root's, readable for the group of the pod.
			o := sandboxtoken.Options{GatewayID: "gw-1", TTL: time.Hour, SigningKey: write(t, filepath.Join(dir, "signing.pem"), f.signing, 0o440)}
			if f.public != nil {
				o.PublicKey = write(t, filepath.Join(dir, "public.pem"), f.public, 0o644)
			}
			if f.id != nil {
				o.KeyID = write(t, filepath.Join(dir, "kid"), f.id, 0o644)
			}
			issuer, err := sandboxtoken.New(o)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			token, _ := mint(t, issuer)
			if f.id != nil && kid(t, token) != strings.TrimSpace(string(f.id)) {
				t.Errorf("kid %s, want %s", kid(t, token), f.id)
			}
			good(t, issuer, token)
			if _, _, err := issuer.Rotate(); !fault.Is(err, fault.FailedPrecondition) {
				t.Errorf("rotated a file of the operator: %v", err)
			}
		})
	}
	if _, err := sandboxtoken.New(sandboxtoken.Options{GatewayID: "g", PublicKey: "x"}); err == nil {
		t.Error("a public key alone was accepted")
	}
}

// The file signs; keys in the directory verify, so that a gateway can move from one to the other.
func TestASigningKeyBesideADirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	before, _ := mint(t, open(t, dir, time.Hour, nil))
	private, _ := keyPair(t)
	file := write(t, filepath.Join(t.TempDir(), "signing.pem"), private, 0o400)
	issuer, err := sandboxtoken.New(sandboxtoken.Options{Dir: dir, GatewayID: "gw-1", TTL: time.Hour, SigningKey: file})
	if err != nil {
		t.Fatal(err)
	}
	token, _ := mint(t, issuer)
	if kid(t, token) == kid(t, before) {
		t.Error("the file does not sign")
	}
	good(t, issuer, before, token)
	// The operator puts the old key aside and replaces the file.
	write(t, filepath.Join(dir, "0002.pem"), private, 0o600)
	chmod(t, file, 0o600)
	next, _ := keyPair(t)
	write(t, file, next, 0o600)
	if err := issuer.Reload(); err != nil {
		t.Fatal(err)
	}
	newest, _ := mint(t, issuer)
	good(t, issuer, before, token, newest)
	if len(slices.Compact([]string{kid(t, before), kid(t, token), kid(t, newest)})) != 3 {
		t.Error("three tokens of fewer keys")
	}
}

// The volume of a Kubernetes secret is a sticky directory that everybody may write to, with files of root.
func TestKeysInASecretVolume(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	private, _ := keyPair(t)
	file := write(t, filepath.Join(dir, "0001.pem"), private, 0o440)
	chmod(t, dir, 0o777|os.ModeSticky)
	issuer, err := sandboxtoken.Open(dir, "gw-1", time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _ := mint(t, issuer)
	if os.Geteuid() == 0 {
		if err := os.Chown(file, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if err := issuer.Reload(); err == nil || !strings.Contains(err.Error(), "another user's file") {
			t.Errorf("a stranger's key: %v", err)
		}
	}
	good(t, issuer, token)
}
