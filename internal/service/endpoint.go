package service

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
)

// Kind is the kind of stored services, named as in the reference.
const Kind store.Kind = "service_endpoint"

// MaxName is the length, in bytes, of the names of workspaces, sandboxes and services that a host name is made of: three
// of them and what is between them make one DNS label of at most 63.
const MaxName = 19

const maxPort = 65535

// separator stands between the parts of a host name, and nowhere inside them.
const separator = "--"

// labelSandbox is the label under which a service has its sandbox's name, as in the reference.
const labelSandbox = "sandbox"

// AuthorizationMode is what becomes of the header Authorization of a request on its way into the sandbox.
type AuthorizationMode uint8

// The modes; the numbers are stored.
const (
	// Strip takes the header away. It is what the 0.0.x generations do.
	Strip AuthorizationMode = 0
	// BearerPassthrough leaves one well-formed bearer token for the program in the sandbox, unless it is what the caller
	// showed to the gateway. Generation 0.1 has it.
	BearerPassthrough AuthorizationMode = 1
)

func (m AuthorizationMode) valid() bool { return m <= BearerPassthrough }

// Name is what a service is called.
type Name struct {
	// Workspace empty means the default one.
	Workspace string
	Sandbox   string
	// Service is empty for the sandbox's one unnamed service.
	Service string
}

func (n Name) settled() Name {
	n.Workspace = workspaceOr(n.Workspace)
	return n
}

func workspaceOr(w string) string {
	if w == "" {
		return sandbox.DefaultWorkspace
	}
	return w
}

// Key is the name within the workspace: the sandbox's, and that of the service behind two hyphens if it has one.
func (n Name) Key() string {
	if n.Service == "" {
		return n.Sandbox
	}
	return n.Sandbox + separator + n.Service
}

// String names the service in logs and audit records, as those of RPCs do: "sandbox/default/box/service/web".
func (n Name) String() string {
	out := "sandbox/" + n.Workspace + "/" + n.Sandbox
	if n.Service != "" {
		out += "/service/" + n.Service
	}
	return out
}

// check refuses names that cannot be part of a host name. Clients match the texts.
func (n Name) check() error {
	if n.Sandbox == "" {
		return required()
	}
	for _, part := range [...]struct{ field, value string }{
		{"workspace", n.Workspace}, {"sandbox", n.Sandbox}, {"service", n.Service},
	} {
		var bad string
		switch {
		case len(part.value) > MaxName:
			bad = fmt.Sprintf("must be at most %d characters for sandbox service routing", MaxName)
		case strings.Contains(part.value, separator):
			bad = "must not contain '--'"
		case limits.DNSLabel(part.field, part.value, MaxName) != nil:
			bad = "must be a lowercase DNS label"
		default:
			continue
		}
		return fault.New(fault.InvalidArgument, ReasonName, "%s %s", part.field, bad).
			WithNext("it becomes part of a host name: use lowercase letters, digits and single hyphens")
	}
	return nil
}

func required() error {
	return fault.New(fault.InvalidArgument, limits.ReasonRequired, "sandbox is required").WithNext("set sandbox")
}

// Endpoint is one service. It is shared between readers and never changed.
type Endpoint struct {
	ID   string
	Name Name
	// SandboxID is the sandbox that it was exposed for; another one of the same name does not get it.
	SandboxID string
	// Port is on the sandbox's loopback.
	Port uint16
	Mode AuthorizationMode
	// Labels are for the wire.
	Labels  map[string]string
	Version uint64
	Created time.Time
}

// record is the stored form. The names of workspace and sandbox are the object's.
type record struct {
	SandboxID string            `json:"sandbox_id"`
	Service   string            `json:"service,omitempty"`
	Port      uint16            `json:"port"`
	Mode      AuthorizationMode `json:"authorization_mode,omitempty"`
}

func (r record) encode() ([]byte, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode service: %w", err)
	}
	return raw, nil
}

type memoKey struct{}

// decode reads a stored service, once for each version of it.
func decode(o *store.Object) (*Endpoint, error) {
	v, err := o.Memo(memoKey{}, func() (any, error) {
		var r record
		if err := json.Unmarshal(o.Payload, &r); err != nil {
			return nil, err
		}
		e := &Endpoint{
			ID: o.ID, Name: Name{Workspace: o.Workspace, Sandbox: o.Labels[labelSandbox], Service: r.Service}, SandboxID: r.SandboxID,
			Port: r.Port, Mode: r.Mode, Labels: o.Labels, Version: o.Version, Created: o.CreatedAt,
		}
		if e.Port == 0 || e.SandboxID == "" || !e.Mode.valid() || e.Name.Key() != o.Name {
			return nil, fmt.Errorf("it contradicts itself: %+v", r)
		}
		return e, nil
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, ReasonUnreadable, "stored service %s cannot be read", o.ID).
			WithNext("expose it again")
	}
	return v.(*Endpoint), nil //nolint:forcetypeassert // Only the function above makes values under this key.
}
