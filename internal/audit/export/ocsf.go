// Package export turns audit records into the forms of other systems, events of the Open Cybersecurity Schema Framework
// (OCSF) and log records of the OpenTelemetry protocol (OTLP), and sends the latter on while a log grows. It decides
// nothing about what is recorded and reads a log only through what it is given.
package export

import (
	"encoding/hex"
	"net/netip"
	"strings"

	"sallyport.dev/sallyport/internal/audit"
)

// ocsfVersion is the version of the schema that events follow.
const ocsfVersion = "1.6.0"

// Classes and categories of OCSF that audit records fall into. The uid of a type is class*100 + activity.
const (
	categoryIAM         = 3
	classAuthentication = 3002
	categoryApplication = 6
	classAPIActivity    = 6003
)

// Activities of the two classes.
const (
	activityLogon  = 1
	activityLogoff = 2

	activityCreate = 1
	activityRead   = 2
	activityUpdate = 3
	activityDelete = 4
	activityOther  = 99
)

// Severities of OCSF.
const (
	severityInformational = 1
	severityLow           = 2
	severityHigh          = 4
)

// Event is one OCSF event, of the class API Activity or Authentication. Marshalled as JSON it has every attribute that
// its class requires.
type Event struct {
	ActivityID   int    `json:"activity_id"`
	ActivityName string `json:"activity_name"`
	CategoryUID  int    `json:"category_uid"`
	CategoryName string `json:"category_name"`
	ClassUID     int    `json:"class_uid"`
	ClassName    string `json:"class_name"`
	TypeUID      int    `json:"type_uid"`
	TypeName     string `json:"type_name"`
	// Time is in milliseconds since 1970.
	Time       int64  `json:"time"`
	SeverityID int    `json:"severity_id"`
	Severity   string `json:"severity"`
	StatusID   int    `json:"status_id"`
	Status     string `json:"status"`
	StatusCode string `json:"status_code,omitempty"`
	Message    string `json:"message"`

	Metadata    Metadata   `json:"metadata"`
	Actor       *Actor     `json:"actor,omitempty"`
	User        *User      `json:"user,omitempty"`
	API         *API       `json:"api,omitempty"`
	Service     *Service   `json:"service,omitempty"`
	Session     *Session   `json:"session,omitempty"`
	SrcEndpoint *Endpoint  `json:"src_endpoint,omitempty"`
	Resources   []Resource `json:"resources,omitempty"`
	// Unmapped holds what the schema has no attribute for.
	Unmapped map[string]any `json:"unmapped,omitempty"`
}

// Metadata says where an event comes from.
type Metadata struct {
	Version        string  `json:"version"`
	Product        Product `json:"product"`
	UID            string  `json:"uid,omitempty"`
	Sequence       uint64  `json:"sequence,omitempty"`
	CorrelationUID string  `json:"correlation_uid,omitempty"`
	EventCode      string  `json:"event_code,omitempty"`
	LogName        string  `json:"log_name"`
	LogProvider    string  `json:"log_provider"`
	OriginalTime   string  `json:"original_time"`
	TenantUID      string  `json:"tenant_uid,omitempty"`
}

// Product is what wrote an event.
type Product struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitempty"`
}

// Actor is who acted.
type Actor struct {
	User User `json:"user"`
}

// User is a person, a sandbox or the gateway itself.
type User struct {
	Name   string `json:"name,omitempty"`
	UID    string `json:"uid"`
	Domain string `json:"domain,omitempty"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
}

// API is the call that was made.
type API struct {
	Operation string   `json:"operation"`
	Service   *Service `json:"service,omitempty"`
	Request   *Call    `json:"request,omitempty"`
	Response  *Answer  `json:"response,omitempty"`
}

// Service is a service by name.
type Service struct {
	Name string `json:"name"`
}

// Call is a call by its id.
type Call struct {
	UID string `json:"uid"`
}

// Answer is what became of a call.
type Answer struct {
	Error string `json:"error,omitempty"`
}

// Session is a supervisor's session.
type Session struct {
	UID string `json:"uid"`
}

// Endpoint is where a call came from.
type Endpoint struct {
	IP      string `json:"ip,omitempty"`
	Name    string `json:"name,omitempty"`
	SvcName string `json:"svc_name,omitempty"`
}

// Resource is what was acted on.
type Resource struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// product is the name under which events are known elsewhere.
const product = "sallyport-gateway"

// OCSF returns the event of a record; version is the gateway's.
func OCSF(r *audit.Record, version string) *Event {
	e := &Event{
		Time: r.Time.UnixMilli(), Message: Message(r), StatusCode: r.Reason, StatusID: 1, Status: "Success",
		SeverityID: severityInformational, Severity: "Informational",
		Metadata: Metadata{
			Version: ocsfVersion, Product: Product{Name: product, VendorName: "Sallyport", Version: version},
			UID: hashText(r), Sequence: r.Sequence, CorrelationUID: r.RequestID, EventCode: r.Action, LogName: "audit",
			LogProvider: product, OriginalTime: r.Time.UTC().Format(timeLayout), TenantUID: r.Tenant,
		},
		SrcEndpoint: endpointOf(r),
		Unmapped:    map[string]any{"verdict": r.Verdict},
	}
	if len(r.Details) > 0 {
		e.Unmapped["details"] = r.Details
	}
	if r.Verdict != audit.Allowed {
		e.StatusID, e.Status, e.SeverityID, e.Severity = 2, "Failure", severityLow, "Low"
	}
	if r.Action == audit.ActionChainBroken || r.Action == audit.ActionLost {
		e.SeverityID, e.Severity = severityHigh, "High"
	}
	if r.Target != "" {
		kind, _, _ := strings.Cut(r.Target, "/")
		e.Resources = []Resource{{Name: r.Target, Type: kind}}
	}
	switch {
	case r.Action == audit.ActionSessionOpen:
		e.authentication(r, activityLogon, "Logon")
	case r.Action == audit.ActionSessionClose:
		e.authentication(r, activityLogoff, "Logoff")
	case r.Verdict == audit.Denied && r.ActorKind == "anonymous":
		// Whoever is refused and still nobody was not believed, or showed nothing.
		e.authentication(r, activityLogon, "Logon")
	default:
		e.api(r)
	}
	return e
}

func (e *Event) class(category int, categoryName string, class int, className string, activity int, activityName string) {
	e.CategoryUID, e.CategoryName, e.ClassUID, e.ClassName = category, categoryName, class, className
	e.ActivityID, e.ActivityName = activity, activityName
	e.TypeUID, e.TypeName = class*100+activity, className+": "+activityName
}

func (e *Event) authentication(r *audit.Record, activity int, name string) {
	e.class(categoryIAM, "Identity & Access Management", classAuthentication, "Authentication", activity, name)
	user := userOf(r)
	e.User, e.Service = &user, &Service{Name: product}
	if id := r.Details["session"]; id != "" {
		e.Session = &Session{UID: id}
	}
	// This class has no list of resources.
	e.Resources = nil
	if r.Target != "" {
		e.Unmapped["target"] = r.Target
	}
}

func (e *Event) api(r *audit.Record) {
	service, operation := "", r.Action
	if rest, ok := strings.CutPrefix(r.Action, "/"); ok {
		service, operation, _ = strings.Cut(rest, "/")
	}
	activity, name := activityOf(operation)
	e.class(categoryApplication, "Application Activity", classAPIActivity, "API Activity", activity, name)
	e.Actor, e.API = &Actor{User: userOf(r)}, &API{Operation: operation}
	if service != "" {
		e.API.Service = &Service{Name: service}
	}
	if r.RequestID != "" {
		e.API.Request = &Call{UID: r.RequestID}
	}
	if r.Verdict != audit.Allowed {
		e.API.Response = &Answer{Error: r.Reason}
	}
}

// activityOf reads from an operation's name what it does.
func activityOf(operation string) (activity int, name string) {
	for _, a := range []struct {
		id    int
		name  string
		verbs string
	}{
		{activityCreate, "Create", "Create Add Import Expose Attach Issue"},
		{activityRead, "Read", "Get List Watch Explain Preview Lint credential.disclose"},
		{activityUpdate, "Update", "Update Edit Set Start Stop Configure Rotate Approve Reject Undo Submit Push Report Refresh Restore config.reload"},
		{activityDelete, "Delete", "Delete Remove Revoke Detach Clear"},
	} {
		for verb := range strings.FieldsSeq(a.verbs) {
			if strings.HasPrefix(operation, verb) {
				return a.id, a.name
			}
		}
	}
	return activityOther, operation
}

func userOf(r *audit.Record) User {
	u := User{UID: r.Actor, Type: r.ActorKind}
	switch r.ActorKind {
	case "user":
		u.TypeID, u.Type = 1, "User"
		if issuer, subject, ok := strings.Cut(r.Actor, "|"); ok {
			u.Domain, u.Name = issuer, subject
		}
	case "sandbox":
		u.TypeID, u.Type = 4, "Service"
	case audit.Gateway:
		u.TypeID, u.Type = 3, "System"
	default:
		u.TypeID, u.Type = 0, "Unknown"
	}
	if u.UID == "" {
		u.UID = "unknown"
	}
	return u
}

func endpointOf(r *audit.Record) *Endpoint {
	if _, err := netip.ParseAddr(r.Remote); err == nil {
		return &Endpoint{IP: r.Remote}
	}
	if r.Remote != "" {
		return &Endpoint{Name: r.Remote}
	}
	return &Endpoint{SvcName: product}
}

const timeLayout = "2006-01-02T15:04:05.000Z07:00"

func hashText(r *audit.Record) string {
	if r.Hash == [32]byte{} {
		return ""
	}
	return hex.EncodeToString(r.Hash[:])
}

// Message is a record in one line for people.
func Message(r *audit.Record) string {
	var b strings.Builder
	b.WriteString(r.Actor)
	b.WriteString(" " + r.Verdict + " ")
	b.WriteString(r.Action[strings.LastIndexByte(r.Action, '/')+1:])
	if r.Target != "" {
		b.WriteString(" on " + r.Target)
	}
	if r.Reason != "" {
		b.WriteString(": " + r.Reason)
	}
	return b.String()
}
