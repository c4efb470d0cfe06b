// Package workspace owns workspaces and their members: which exist, who may change them, and what each member may do.
// It says what a membership is; what follows from one is authz's to decide. It speaks no wire dialect, and knows of the
// objects in a workspace only that they are there.
package workspace

import (
	"encoding/json"
	"time"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/store"
)

// Kinds of the store.
const (
	Kind       store.Kind = "workspace"
	MemberKind store.Kind = "workspace_member"
)

// Default is the workspace that always exists, and that an empty name means.
const Default = authz.DefaultWorkspace

// Bounds.
const (
	// MaxName is the length of a workspace's name, which becomes a part of host names.
	MaxName = 19
	// MaxMembers is how many members a workspace can have.
	MaxMembers = 1000
	// MaxWorkspaces is how many workspaces there can be.
	MaxWorkspaces = 10_000
	// MaxSubject bounds a subject, with its issuer where that is named, in bytes.
	MaxSubject = 1024

	DefaultPage = 100
	MaxPage     = 1000
)

// Stable reasons of this package's errors.
const (
	ReasonNotFound  = "WORKSPACE_NOT_FOUND"
	ReasonExists    = "WORKSPACE_EXISTS"
	ReasonDefault   = "WORKSPACE_DEFAULT"
	ReasonNotEmpty  = "WORKSPACE_NOT_EMPTY"
	ReasonLeaving   = "WORKSPACE_LEAVING"
	ReasonTooMany   = "TOO_MANY_WORKSPACES"
	ReasonMember    = "WORKSPACE_MEMBER_EXISTS"
	ReasonMembers   = "TOO_MANY_WORKSPACE_MEMBERS"
	ReasonRole      = "WORKSPACE_ROLE"
	ReasonSubject   = "PRINCIPAL_SUBJECT"
	ReasonGrant     = "WORKSPACE_ADMIN_GRANT"
	ReasonIssuer    = "PRINCIPAL_ISSUER"
	reasonUnencoded = "WORKSPACE_ENCODING"
)

// Workspace is one workspace.
type Workspace struct {
	ID, Name  string
	Labels    map[string]string
	Version   uint64
	CreatedAt time.Time
}

// Member is one user's role in a workspace.
type Member struct {
	ID        string
	Workspace string
	// Issuer and Subject are the user; equal subjects of two issuers are two users.
	Issuer, Subject string
	// Name is the user as the wire has it: the subject, with the issuer before it where that is needed.
	Name string
	// Role is authz.User or authz.Admin.
	Role      authz.Role
	Version   uint64
	CreatedAt time.Time
}

// record is the stored form of a member.
type record struct {
	Issuer  string     `json:"issuer"`
	Subject string     `json:"subject"`
	Role    authz.Role `json:"role"`
}

type recordKey struct{}

// decode reads a stored member, once for each version of it. What cannot be read grants nothing.
func decode(o *store.Object) record {
	v, err := o.Memo(recordKey{}, func() (any, error) {
		var r record
		if err := json.Unmarshal(o.Payload, &r); err != nil {
			return record{}, nil //nolint:nilerr // Not readable stays not readable, and the zero record has no role.
		}
		return r, nil
	})
	if err != nil {
		return record{}
	}
	r, _ := v.(record)
	return r
}

// key is the stored name of a member.
func key(issuer, subject string) string { return issuer + "|" + subject }

func nameOr(name string) string {
	if name == "" {
		return Default
	}
	return name
}

// checkName refuses names that are no DNS label of the length that the contract allows.
func checkName(name string) error {
	if err := limits.Required("name", name); err != nil {
		return err
	}
	return limits.DNSLabel("name", name, MaxName)
}

func notFound(name string) *fault.Error {
	return fault.New(fault.NotFound, ReasonNotFound, "workspace '%s' not found", shortened(name)).
		WithNext("list the workspaces, or have an administrator create it")
}

// shortened is a peer's word as a message may repeat it.
func shortened(name string) string {
	if len(name) > limits.MaxName {
		return name[:limits.MaxName] + "..."
	}
	return name
}
