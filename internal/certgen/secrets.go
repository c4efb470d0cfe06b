package certgen

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"sallyport.dev/sallyport/internal/kubeclient"
)

// The label on every Secret that is ours to change, and what others put on theirs.
const (
	labelOwner    = "sallyport.dev/made-by"
	labelValue    = "generate-certs"
	prefixCertMgr = "cert-manager.io/"
	typeTLS       = "kubernetes.io/tls"
	typeOpaque    = "Opaque"
	authorityTail = "-ca"
)

// Secrets name the Secrets of one namespace.
type Secrets struct {
	Namespace string
	// Server, Client and Signing are the reference's three. Signing is always needed, the others unless
	// Options.SigningOnly is set.
	Server, Client, Signing string
	// Authority is where the authority's key is kept; empty is Server with "-ca" behind it.
	Authority string
	// Encryption is where the key of credentials at rest is kept; empty means that none is made.
	Encryption string
	// API is how to call the API server.
	API *kubeclient.Client
}

// InSecrets keeps everything in Secrets of Kubernetes. Secrets that carry another owner's mark, or none, are used and
// not changed.
func InSecrets(ctx context.Context, s Secrets, o Options) (*Report, error) {
	if s.Authority == "" && s.Server != "" {
		s.Authority = s.Server + authorityTail
	}
	names := map[part]string{partAuthority: s.Authority, partServer: s.Server, partClient: s.Client, partSigning: s.Signing, partEncryption: s.Encryption}
	if o.SigningOnly {
		for _, what := range []part{partAuthority, partServer, partClient} {
			delete(names, what)
		}
	}
	if s.Encryption == "" {
		delete(names, partEncryption)
	}
	if !dnsName(s.Namespace) {
		return nil, fmt.Errorf("%q is no namespace; pass --namespace or set POD_NAMESPACE", s.Namespace)
	}
	used := map[string]bool{}
	for _, what := range []part{partServer, partClient, partSigning, partAuthority, partEncryption} {
		name, ok := names[what]
		if !ok {
			continue
		}
		if !dnsName(name) || strings.ToLower(name) != name {
			return nil, fmt.Errorf("%q is no name of a Secret; pass %s", name, flagOf(what))
		}
		if used[name] {
			return nil, fmt.Errorf("the Secret %s would be used for two things; give each its own", name)
		}
		used[name] = true
	}
	return run(ctx, &secrets{Secrets: s, names: names}, o)
}

func flagOf(what part) string {
	return map[part]string{
		partAuthority: "--ca-secret-name", partServer: "--server-secret-name", partClient: "--client-secret-name",
		partSigning: "--jwt-secret-name", partEncryption: "--key-encryption-key-secret-name",
	}[what]
}

type secrets struct {
	Secrets
	names map[part]string
}

// secret is as much of a Secret as is needed; what else is in one stays, since changes are merged into it.
type secret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metadata          `json:"metadata"`
	Type       string            `json:"type,omitempty"`
	Data       map[string][]byte `json:"data"`
}

type metadata struct {
	Name            string            `json:"name,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
}

func (s *secrets) title() string { return "namespace " + s.Namespace }

func (s *secrets) name(what part) string { return "secret " + s.names[what] }

func (s *secrets) wants(what part) bool { return s.names[what] != "" }

func (s *secrets) remedy(parts []part) string {
	words := []string{"kubectl", "delete", "secret", "--namespace", s.Namespace}
	for _, what := range parts {
		words = append(words, s.names[what])
	}
	return strings.Join(words, " ")
}

func (s *secrets) path(name string) string {
	return strings.TrimSuffix("api/v1/namespaces/"+s.Namespace+"/secrets/"+name, "/")
}

func (s *secrets) read(ctx context.Context) (map[part]*found, []string, error) {
	parts, notes := map[part]*found{}, []string(nil)
	for what, name := range s.names {
		var got secret
		err := s.API.Call(ctx, http.MethodGet, s.path(name), nil, &got)
		switch {
		case errors.Is(err, kubeclient.ErrNotFound):
		case what == partAuthority && kubeclient.Code(err) == http.StatusForbidden:
			// Roles that were made for the reference may name its three Secrets.
			notes = append(notes, fmt.Sprintf("%s may not be read: certificates are not renewed; let the service account get, create and patch it", s.name(what)))
		case err != nil:
			return nil, nil, s.explain("read", what, err)
		default:
			parts[what] = foundIn(got)
		}
	}
	return parts, notes, nil
}

func foundIn(got secret) *found {
	f := &found{files: got.Data, version: got.Metadata.ResourceVersion, foreign: got.Metadata.Labels[labelOwner] != labelValue, by: "whoever made it"}
	for key := range got.Metadata.Annotations {
		if strings.HasPrefix(key, prefixCertMgr) {
			f.foreign, f.by = true, "cert-manager"
		}
	}
	return f
}

// write has the server check all changes before it makes the first.
func (s *secrets) write(ctx context.Context, changes []change) error {
	for _, query := range []string{"?dryRun=All", ""} {
		for _, c := range changes {
			if err := s.put(ctx, c, query); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *secrets) put(ctx context.Context, c change, query string) error {
	object := secret{
		APIVersion: "v1", Kind: "Secret", Data: c.files,
		Metadata: metadata{Name: s.names[c.part], Labels: map[string]string{labelOwner: labelValue}},
	}
	method, path, verb := http.MethodPost, s.path(""), "create"
	if c.was != nil {
		method, path, verb = http.MethodPatch, s.path(s.names[c.part]), "patch"
		object.Metadata.ResourceVersion = c.was.version
	} else {
		object.Type = typeOpaque
		if c.part <= partClient {
			object.Type = typeTLS
		}
	}
	var answer secret
	err := s.API.Call(ctx, method, path+query, object, &answer)
	switch {
	case kubeclient.Code(err) == http.StatusConflict || c.was != nil && errors.Is(err, kubeclient.ErrNotFound):
		return errChanged
	case err != nil:
		return s.explain(verb, c.part, err)
	}
	return nil
}

func (s *secrets) explain(verb string, what part, err error) error {
	hint := ""
	switch kubeclient.Code(err) {
	case http.StatusForbidden:
		hint = "; let the service account get, create and patch secrets of the namespace"
	case http.StatusNotFound:
		hint = "; does the namespace exist?"
	case http.StatusUnprocessableEntity:
		hint = "; the Secret may be immutable or of another type"
	}
	return fmt.Errorf("%s %s in %s: %w%s", verb, s.name(what), s.title(), err, hint)
}
