package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"

	"sallyport.dev/sallyport/internal/certgen"
	"sallyport.dev/sallyport/internal/kubeclient"
)

const generateCertsUsage = `Usage:
  sallyport-gateway generate-certs --server-secret-name NAME --client-secret-name NAME --jwt-secret-name NAME [flags]
      Make what is missing and renew what ends, in Secrets of the namespace. Run it as a job in the cluster, at every
      installation and from time to time after it.
  sallyport-gateway generate-certs --output-dir DIR [flags]
      The same in files of a folder; also puts the client's files where the client looks for them.

Certificates are made anew when they end soon, and when the server's lacks a name. Secrets that somebody else made are
used and never changed. See docs/certificates.md.

Flags:
`

// certFlags are the flags of generate-certs: the reference's, and our own behind them.
type certFlags struct {
	set                                     *pflag.FlagSet
	namespace, server, client, jwt, ca, key string
	output                                  string
	apiURL, apiCA, apiToken                 string
	options                                 certgen.Options
	clientCopy                              bool
}

func newCertFlags() *certFlags {
	f := &certFlags{set: pflag.NewFlagSet("generate-certs", pflag.ContinueOnError)}
	s := f.set
	s.StringVar(&f.namespace, "namespace", "", "namespace of the Secrets; POD_NAMESPACE if not given")
	s.StringVar(&f.server, "server-secret-name", "", "Secret of the server's certificate")
	s.StringVar(&f.client, "client-secret-name", "", "Secret of the clients' certificate")
	s.StringVar(&f.jwt, "jwt-secret-name", "", "Secret of the key that signs sandbox tokens")
	s.BoolVar(&f.options.SigningOnly, "jwt-only", false, "make no certificates, only keys")
	s.StringArrayVar(&f.options.Names, "server-san", nil, "further DNS name or IP address of the server; may be repeated")
	s.BoolVar(&f.options.DryRun, "dry-run", false, "say what would be done, and do nothing")
	s.StringVar(&f.output, "output-dir", "", "folder to keep everything in, instead of Secrets")
	s.StringVar(&f.ca, "ca-secret-name", "", "Secret of the authority's key; the server's name with -ca if not given")
	s.StringVar(&f.key, "key-encryption-key-secret-name", "", "Secret of the key that encrypts credentials; none is made if not given")
	s.DurationVar(&f.options.RenewBefore, "renew-before", certgen.DefaultRenewBefore, "how long before its end a certificate is made anew")
	s.DurationVar(&f.options.Life, "cert-lifetime", certgen.DefaultLife, "how long certificates live")
	s.DurationVar(&f.options.AuthorityLife, "ca-lifetime", certgen.DefaultAuthorityLife, "how long the authority lives; it is renewed with the same key")
	s.BoolVar(&f.clientCopy, "copy-client", true, "with --output-dir: copy the client's files to the client's configuration")
	s.StringVar(&f.apiURL, "kubernetes-api-url", "", "API server outside a cluster")
	s.StringVar(&f.apiCA, "kubernetes-ca", "", "file of the API server's authorities; the pod's own if not given")
	s.StringVar(&f.apiToken, "kubernetes-token", "", "file of the token for the API server; the pod's own if not given")
	s.SortFlags = false
	return f
}

func generateCertsCommand(ctx context.Context, args []string, p process) int {
	f := newCertFlags()
	f.set.SetOutput(p.stderr)
	f.set.Usage = func() {}
	switch err := f.set.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(p.stdout, generateCertsUsage, f.set.FlagUsages())
		return 0
	case err != nil:
		return p.fail(exitUsage, err)
	case f.set.NArg() > 0:
		return p.fail(exitUsage, fmt.Errorf("unexpected argument %q; see generate-certs --help", f.set.Arg(0)))
	}
	report, err := f.run(ctx, p)
	if err != nil {
		return p.fail(1, err)
	}
	verb := ""
	if f.options.DryRun {
		verb = "would write "
	}
	for _, line := range report.Done {
		fmt.Fprintln(p.stdout, verb+line)
	}
	for _, line := range report.Notes {
		fmt.Fprintln(p.stderr, "warning:", line)
	}
	if len(report.Done) == 0 {
		fmt.Fprintln(p.stdout, "everything is there and good; nothing to do")
	}
	return 0
}

func (f *certFlags) run(ctx context.Context, p process) (*certgen.Report, error) {
	if f.output != "" {
		for _, name := range []string{"namespace", "server-secret-name", "client-secret-name", "jwt-secret-name", "ca-secret-name", "key-encryption-key-secret-name"} {
			if f.set.Changed(name) {
				return nil, fmt.Errorf("--output-dir and --%s are mutually exclusive: files or Secrets", name)
			}
		}
		folder := certgen.Folder{Dir: f.output}
		if f.clientCopy {
			folder.ClientDir = clientDir(p.env)
		}
		return certgen.InFolder(ctx, folder, f.options)
	}
	if f.namespace == "" {
		f.namespace, _ = p.env("POD_NAMESPACE")
	}
	api, err := kubeclient.New(kubeclient.Config{URL: f.apiURL, CAPath: f.apiCA, TokenPath: f.apiToken, Env: p.env})
	if err != nil {
		return nil, fmt.Errorf("%w; run it in a pod, name the server with --kubernetes-api-url, or a folder with --output-dir", err)
	}
	defer api.Close()
	return certgen.InSecrets(ctx, certgen.Secrets{
		Namespace: f.namespace, Server: f.server, Client: f.client, Signing: f.jwt, Authority: f.ca, Encryption: f.key, API: api,
	}, f.options)
}

// clientDir is where the reference's client looks for the certificate of the gateway on the same machine; empty where
// nobody's home is known.
func clientDir(env func(string) (string, bool)) string {
	if dir, ok := env("XDG_CONFIG_HOME"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "openshell", "gateways", "openshell", "mtls")
	}
	if home, ok := env("HOME"); ok && filepath.IsAbs(home) {
		return filepath.Join(home, ".config", "openshell", "gateways", "openshell", "mtls")
	}
	return ""
}
