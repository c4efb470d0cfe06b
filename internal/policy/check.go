package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
)

// Stable reasons of refused policies.
const (
	ReasonUnsafe       = "POLICY_UNSAFE"
	ReasonStatic       = "POLICY_STATIC"
	ReasonReservedRule = "POLICY_RULE_RESERVED"
	ReasonUnreadable   = "POLICY_UNREADABLE"
	ReasonEncoding     = "POLICY_ENCODING"
)

// What a policy may hold beside its size, see limits.MaxPolicySize.
const (
	MaxPaths = 256
	MaxPath  = 4096
)

// providerRule begins the keys of rules that the gateway makes of providers.
const providerRule = "_provider_"

// maxShown bounds what a message repeats of a policy, in bytes; maxViolations how many findings it names.
const (
	maxShown      = 200
	maxViolations = 10
)

// Submitted returns a copy of a policy as it may be stored: without what only the gateway sets. Rules with the keys of
// providers are left out where the sender is a sandbox, whose supervisor sends back what it was given, and refused
// otherwise. It also refuses what is too large, or unsafe whoever asks for it.
func Submitted(p *sandboxpb.SandboxPolicy, bySandbox bool) (*sandboxpb.SandboxPolicy, error) {
	if !bySandbox {
		for _, key := range slices.Sorted(maps.Keys(p.GetNetworkPolicies())) {
			if strings.HasPrefix(key, providerRule) {
				return nil, fault.New(fault.InvalidArgument, ReasonReservedRule,
					"network policy rule %s uses reserved '%s' prefix", shown(key), providerRule).
					WithNext("leave rules of providers out; the gateway adds them")
			}
		}
	}
	p = senders(p)
	if err := limits.Size("policy", proto.Size(p), limits.MaxPolicySize); err != nil {
		return nil, err
	}
	return p, safe(p)
}

// senders returns a copy of a policy with only what its sender may say; nil is an empty one.
func senders(p *sandboxpb.SandboxPolicy) *sandboxpb.SandboxPolicy {
	if p == nil {
		return &sandboxpb.SandboxPolicy{}
	}
	p = proto.CloneOf(p)
	dropUnknown(p)
	for key, rule := range p.GetNetworkPolicies() {
		if strings.HasPrefix(key, providerRule) {
			delete(p.NetworkPolicies, key)
			continue
		}
		for _, e := range rule.GetEndpoints() {
			e.ProviderCredentialed = false
		}
	}
	return p
}

// safe refuses what no sandbox may have, naming all of it within reason.
func safe(p *sandboxpb.SandboxPolicy) error {
	var found violations
	found.process(p.GetProcess())
	found.filesystem(p.GetFilesystem())
	for _, key := range slices.Sorted(maps.Keys(p.GetNetworkPolicies())) {
		for _, e := range p.NetworkPolicies[key].GetEndpoints() {
			found.host(key, e.GetHost())
		}
	}
	if len(found) == 0 {
		return nil
	}
	more := ""
	if len(found) > maxViolations {
		more = fmt.Sprintf("; and %d more", len(found)-maxViolations)
		found = found[:maxViolations]
	}
	return fault.New(fault.InvalidArgument, ReasonUnsafe, "policy contains unsafe content: %s%s", strings.Join(found, "; "), more).
		WithNext("mend what the message names and send the policy again")
}

type violations []string

func (v *violations) add(format string, args ...any) { *v = append(*v, fmt.Sprintf(format, args...)) }

// process allows the user and group of both generations: "sandbox", a number that is not root's, or none.
func (v *violations) process(p *sandboxpb.ProcessPolicy) {
	for _, who := range []struct{ field, name string }{
		{"run_as_user", p.GetRunAsUser()}, {"run_as_group", p.GetRunAsGroup()},
	} {
		id, err := strconv.ParseUint(who.name, 10, 32)
		if who.name == "" || who.name == "sandbox" || err == nil && id > 0 && id < 1<<32-1 {
			continue
		}
		v.add("%s must be 'sandbox' or a number from 1 to 4294967294, not %s", who.field, shown(who.name))
	}
}

func (v *violations) filesystem(f *sandboxpb.FilesystemPolicy) {
	if n := len(f.GetReadOnly()) + len(f.GetReadWrite()); n > MaxPaths {
		v.add("too many filesystem paths (%d > %d)", n, MaxPaths)
		return
	}
	for _, path := range f.GetReadOnly() {
		v.path(path)
	}
	for _, path := range f.GetReadWrite() {
		v.path(path)
		if strings.HasPrefix(path, "/") && strings.Trim(path, "/") == "" {
			v.add("read_write path %s is the whole file system", shown(path))
		}
	}
}

func (v *violations) path(path string) {
	switch {
	case len(path) > MaxPath:
		v.add("path exceeds maximum length (%d > %d)", len(path), MaxPath)
	case !strings.HasPrefix(path, "/"):
		v.add("path %s is not absolute", shown(path))
	case slices.Contains(strings.Split(path, "/"), ".."):
		v.add("path %s contains a '..' component", shown(path))
	case strings.ContainsRune(path, 0):
		v.add("path %s contains NUL", shown(path))
	}
}

// host refuses a wildcard for all of a top-level domain, or for everything.
func (v *violations) host(rule, host string) {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if strings.HasPrefix(host, "*") && strings.Trim(labels[0], "*") == "" && len(labels) <= 2 {
		v.add("rule %s: host %s is a wildcard for a top-level domain", shown(rule), shown(host))
	}
}

// CheckStatic refuses a policy that changes what a running sandbox has applied already: the baseline's files may only
// gain paths, and landlock and process stay. A nil baseline accepts everything.
func CheckStatic(baseline, next *sandboxpb.SandboxPolicy) error {
	if baseline == nil {
		return nil
	}
	if was := baseline.Filesystem; was != nil {
		is := next.GetFilesystem()
		if is == nil {
			return static("filesystem policy cannot be removed on a live sandbox")
		}
		if was.IncludeWorkdir != is.IncludeWorkdir {
			return static("filesystem include_workdir cannot be changed on a live sandbox")
		}
		if gone, ok := missing(was.ReadOnly, is.ReadOnly); ok {
			return static("filesystem read_only path '%s' cannot be removed on a live sandbox", gone)
		}
		if gone, ok := missing(was.ReadWrite, is.ReadWrite); ok {
			return static("filesystem read_write path '%s' cannot be removed on a live sandbox", gone)
		}
	}
	if !proto.Equal(baseline.Landlock, next.GetLandlock()) {
		return static("landlock policy cannot be changed on a live sandbox (applied at startup)")
	}
	if !proto.Equal(baseline.Process, next.GetProcess()) {
		return static("process policy cannot be changed on a live sandbox (applied at startup)")
	}
	return nil
}

func static(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, ReasonStatic, format, args...).
		WithNext("keep this part as it is, or create a new sandbox with the policy")
}

// missing returns the first of the old paths that the new ones lack.
func missing(old, now []string) (path string, found bool) {
	have := make(map[string]struct{}, len(now))
	for _, p := range now {
		have[p] = struct{}{}
	}
	for _, p := range old {
		if _, ok := have[p]; !ok {
			return cut(p), true
		}
	}
	return "", false
}

// SameNetwork tells whether two policies let programs reach the same, whatever the gateway adds.
func SameNetwork(a, b *sandboxpb.SandboxPolicy) bool {
	a, b = senders(a), senders(b)
	return proto.Equal(
		&sandboxpb.SandboxPolicy{NetworkPolicies: a.GetNetworkPolicies(), NetworkMiddlewares: a.GetNetworkMiddlewares()},
		&sandboxpb.SandboxPolicy{NetworkPolicies: b.GetNetworkPolicies(), NetworkMiddlewares: b.GetNetworkMiddlewares()},
	)
}

// shown is a word of a policy as a message may repeat it.
func shown(word string) string { return strconv.Quote(cut(word)) }

func cut(word string) string {
	if len(word) > maxShown {
		return strings.ToValidUTF8(word[:maxShown], "") + "..."
	}
	return word
}
