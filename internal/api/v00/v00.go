// Package v00 is the 0.0.x dialect: it turns the messages of openshell.v1 and openshell.inference.v1, as the mvp
// generation and its successors up to 0.0.116 speak them, into hub types and back. It holds no rule of its own: what
// may be done and what comes of it is decided in the services, who may call is decided at the door.
package v00

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/inferencepb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/exec"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/service"
	"sallyport.dev/sallyport/internal/workspace"
)

// Credentials lists what the credentials driver can hand out.
type Credentials interface {
	List(ctx context.Context) ([]credentials.Info, error)
}

// Capabilities asks the compute driver what it is.
type Capabilities interface {
	Capabilities(ctx context.Context) (compute.Capabilities, error)
}

// Services are the rooms below this dialect.
type Services struct {
	Sandboxes *sandbox.Service
	Providers *provider.Service
	// Workspaces may be nil: then there are none but names.
	Workspaces  *workspace.Service
	Credentials Credentials
	Compute     Capabilities
	Relays      *relay.Registry
	Exec        *exec.Runner
	Logs        *sandboxlog.Hub
	Tokens      sandbox.Tokens
	// Keys sign Tokens; nil cannot be rotated.
	Keys KeyRing
	// Healthy tells whether the gateway can do its work; nil means yes.
	Healthy func() error
	Version string
	// DriverName is the configured name of the compute driver.
	DriverName string
	Logger     *slog.Logger
	// Audit is searched by ListAuditRecords; nil means that there is no audit log.
	Audit AuditLog
	// Recorder is told which credentials were disclosed to whom; nil discards.
	Recorder audit.Recorder
	// Revocations refuses identities; nil means that nobody can be revoked.
	Revocations Revocations
	// Explain tells who may do what, and why.
	Explain Explainer
	// SSH opens connections into sandboxes.
	SSH SSH
	// Exposed are ports of sandboxes with a name at the gateway; nil means that there are none.
	Exposed *service.Service
}

// openShell composes the one service of the contract from one handler type a topic. Methods that no handler has
// are answered by rest, one level deeper, so that a handler's method always wins.
type openShell struct {
	sandboxHandler
	attachHandler
	watchHandler
	providerHandler
	supervisorHandler
	execHandler
	configHandler
	policyHandler
	logHandler
	identityHandler
	workspaceHandler
	sshHandler
	forwardHandler
	serviceHandler
	rest
}

type rest struct {
	openshellpb.UnimplementedOpenShellServer
}

// inference serves nothing yet; see Planned.
type inference struct {
	inferencepb.UnimplementedInferenceServer
}

// Register adds the dialect's services, and our own extensions that belong to it, to a gRPC server.
func Register(s grpc.ServiceRegistrar, svc Services) {
	openshellpb.RegisterOpenShellServer(s, &openShell{
		sandboxHandler:    sandboxHandler{svc.Sandboxes},
		attachHandler:     attachHandler{svc.Sandboxes, svc.Providers},
		watchHandler:      watchHandler{svc.Sandboxes, svc.Logs},
		providerHandler:   providerHandler{svc.Providers},
		supervisorHandler: supervisorHandler{svc.Sandboxes, svc.Relays},
		execHandler:       execHandler{svc.Sandboxes, svc.Exec},
		configHandler:     configHandler{svc.Sandboxes, svc.Providers, svc.Logs, svc.Logger, recorderOf(svc)},
		policyHandler:     policyHandler{svc.Sandboxes},
		logHandler:        logHandler{svc.Sandboxes, svc.Logs},
		identityHandler:   identityHandler{svc},
		workspaceHandler:  workspaceHandler{svc.Workspaces},
		sshHandler:        sshHandler{svc.Sandboxes, svc.SSH},
		forwardHandler:    forwardHandler{svc.Sandboxes, svc.Relays, svc.SSH},
		serviceHandler:    serviceHandler{svc.Exposed},
	})
	inferencepb.RegisterInferenceServer(s, &inference{})
	sallyportpb.RegisterGatewayServer(s, &extensions{
		credentialsHandler: credentialsHandler{svc.Credentials},
		auditHandler:       auditHandler{svc},
		accessHandler:      accessHandler{svc},
		revocationHandler:  revocationHandler{svc},
		keysHandler:        keysHandler{svc},
	})
}

// Descriptors are the services of this package, for the rule table.
func Descriptors() []protoreflect.ServiceDescriptor {
	return []protoreflect.ServiceDescriptor{
		openshellpb.File_openshell_v1_openshell_proto.Services().ByName("OpenShell"),
		inferencepb.File_openshell_inference_v1_inference_proto.Services().ByName("Inference"),
		sallyportpb.File_sallyport_v1_sallyport_proto.Services().ByName("Gateway"),
	}
}

// Streams are the methods, as full names, whose streams the gateway ends while their handler waits for the peer: those
// that it holds by the thousand, each with one goroutine. gRPC then answers Canceled by itself, which is enough for a
// supervisor; the others end by returning, with the reason.
func Streams() map[string]bool {
	return map[string]bool{openshellpb.OpenShell_ConnectSupervisor_FullMethodName: true}
}

// millis is the wire's form of a time: Unix milliseconds, 0 for none.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
