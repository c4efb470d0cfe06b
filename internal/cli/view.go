package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

// conditionIsolation is the condition by which a driver reports what isolation a sandbox really has.
const conditionIsolation = "Isolation"

// sandboxView is a sandbox as programs see it. Keys up to current_policy_version are those of other clients.
type sandboxView struct {
	ID                   string            `json:"id"`
	Name                 string            `json:"name"`
	Workspace            string            `json:"workspace"`
	Labels               map[string]string `json:"labels"`
	Annotations          map[string]string `json:"annotations"`
	ResourceVersion      uint64            `json:"resource_version"`
	CreatedAt            string            `json:"created_at,omitempty"`
	Phase                string            `json:"phase"`
	CurrentPolicyVersion uint32            `json:"current_policy_version"`
	Reason               string            `json:"reason,omitempty"`
	Message              string            `json:"message,omitempty"`
	Image                string            `json:"image,omitempty"`
	Providers            []string          `json:"providers"`
	ExitCode             *int32            `json:"exit_code,omitempty"`
	Conditions           []conditionView   `json:"conditions"`
}

type conditionView struct {
	Type               string `json:"type"`
	Status             string `json:"status"`
	Reason             string `json:"reason,omitempty"`
	Message            string `json:"message,omitempty"`
	LastTransitionTime string `json:"last_transition_time,omitempty"`
}

func viewSandbox(sb *openshellpb.Sandbox) sandboxView {
	m, st := sb.GetMetadata(), sb.GetStatus()
	v := sandboxView{
		ID: m.GetId(), Name: m.GetName(), Workspace: m.GetWorkspace(), Labels: orEmpty(m.GetLabels()),
		Annotations: orEmpty(m.GetAnnotations()), ResourceVersion: m.GetResourceVersion(),
		CreatedAt: rfc3339(m.GetCreatedAtMs()), Phase: phaseWord(phaseOf(sb)),
		CurrentPolicyVersion: max(sb.GetCurrentPolicyVersion(), st.GetCurrentPolicyVersion()),
		Image:                sb.GetSpec().GetTemplate().GetImage(),
		Providers:            append([]string{}, sb.GetSpec().GetProviders()...),
		Conditions:           []conditionView{},
	}
	if st != nil {
		v.ExitCode = st.ExitCode
	}
	v.Reason, v.Message = reasonOf(sb)
	for _, c := range st.GetConditions() {
		v.Conditions = append(v.Conditions, conditionView{
			c.GetType(), c.GetStatus(), c.GetReason(), c.GetMessage(), c.GetLastTransitionTime(),
		})
	}
	return v
}

// phaseOf is the phase, which gateways put into one of two places.
func phaseOf(sb *openshellpb.Sandbox) openshellpb.SandboxPhase {
	if p := sb.GetPhase(); p != openshellpb.SandboxPhase_SANDBOX_PHASE_UNSPECIFIED {
		return p
	}
	return sb.GetStatus().GetPhase()
}

func phaseWord(p openshellpb.SandboxPhase) string { return enumWord(p.String(), "SANDBOX_PHASE_") }

// enumWord makes "Ready" of "SANDBOX_PHASE_READY".
func enumWord(name, prefix string) string {
	word := strings.ToLower(strings.TrimPrefix(name, prefix))
	if word == "" {
		return word
	}
	return strings.ToUpper(word[:1]) + word[1:]
}

// reasonOf is why a sandbox is in its phase: the Ready condition's reason and message while it is not true.
func reasonOf(sb *openshellpb.Sandbox) (reason, message string) {
	for _, c := range sb.GetStatus().GetConditions() {
		if c.GetType() == "Ready" && c.GetStatus() != "True" {
			return c.GetReason(), c.GetMessage()
		}
	}
	return "", ""
}

func because(reason, message string) string {
	switch {
	case reason == "":
		return message
	case message == "":
		return reason
	default:
		return reason + ": " + message
	}
}

// showSandbox is the key-value view. Other programs read the lines "Name:" and "Phase:".
func (a *app) showSandbox(v detailView) {
	phase := v.Phase
	if why := because(v.Reason, v.Message); why != "" {
		phase += " (" + why + ")"
	}
	pairs := []output.Pair{
		{Key: "Id", Value: v.ID},
		{Key: "Name", Value: v.Name},
		{Key: "Workspace", Value: v.Workspace},
		{Key: "Phase", Value: phase},
		{Key: "Created", Value: v.CreatedAt},
		{Key: "Image", Value: v.Image},
		{Key: "Providers", Value: strings.Join(v.Providers, ", ")},
		{Key: "Labels", Value: joinMap(v.Labels)},
		{Key: "Resource version", Value: fmt.Sprint(v.ResourceVersion)},
		{Key: "Policy version", Value: fmt.Sprint(v.CurrentPolicyVersion)},
	}
	if v.ExitCode != nil {
		pairs = append(pairs, output.Pair{Key: "Exit code", Value: fmt.Sprint(*v.ExitCode)})
	}
	for _, c := range v.Conditions {
		value := c.Status
		if c.Type == conditionIsolation {
			value = because("", orWord(c.Message, because(c.Reason, c.Status)))
		} else if why := because(c.Reason, c.Message); why != "" {
			value += " (" + why + ")"
		}
		if c.LastTransitionTime != "" {
			value += ", since " + c.LastTransitionTime
		}
		key := c.Type
		if c.Type != conditionIsolation {
			key = "Condition " + c.Type
		}
		pairs = append(pairs, output.Pair{Key: key, Value: value})
	}
	for _, e := range v.Events {
		pairs = append(pairs, output.Pair{Key: "Event", Value: eventLine(e)})
	}
	if v.Next != "" {
		pairs = append(pairs, output.Pair{Key: "What to do", Value: v.Next})
	}
	a.out.Pairs(pairs)
}

// providerView is a provider as programs see it: keys, never values.
type providerView struct {
	ID                 string            `json:"id"`
	Name               string            `json:"name"`
	Workspace          string            `json:"workspace"`
	Type               string            `json:"type"`
	CredentialKeys     []string          `json:"credential_keys"`
	ConfigKeys         []string          `json:"config_keys"`
	Labels             map[string]string `json:"labels,omitempty"`
	ResourceVersion    uint64            `json:"resource_version"`
	CreatedAt          string            `json:"created_at,omitempty"`
	CredentialExpiries map[string]int64  `json:"credential_expires_at_ms,omitempty"`
}

func viewProvider(p *datamodelpb.Provider) providerView {
	m := p.GetMetadata()
	keys := slices.Collect(maps.Keys(p.GetCredentials()))
	for key := range p.GetCredentialHandles() {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return providerView{
		ID: m.GetId(), Name: m.GetName(), Workspace: m.GetWorkspace(), Type: p.GetType(),
		CredentialKeys: append([]string{}, keys...), ConfigKeys: append([]string{}, slices.Sorted(maps.Keys(p.GetConfig()))...),
		Labels: m.GetLabels(), ResourceVersion: m.GetResourceVersion(), CreatedAt: rfc3339(m.GetCreatedAtMs()),
		CredentialExpiries: p.GetCredentialExpiresAtMs(),
	}
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func orWord(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func joinMap(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ", ")
}

// rfc3339 words milliseconds of the Unix epoch; empty for none.
func rfc3339(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}

// tableTime is the time in tables, UTC.
func tableTime(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format(time.DateTime)
}

// pairsOf reads repeated k=v flags. Without bare, a missing "=" is an error; with it, bare gives the value.
func pairsOf(flag string, items []string, bare func(key string) (string, error)) (map[string]string, error) {
	out := make(map[string]string, len(items))
	for _, item := range items {
		key, value, ok := strings.Cut(item, "=")
		if key == "" || (!ok && bare == nil) {
			// The item may be a secret, so that it is not repeated.
			return nil, usagef("invalid %s format: expected KEY=VALUE", flag)
		}
		if !ok {
			var err error
			if value, err = bare(key); err != nil {
				return nil, err
			}
		}
		if _, twice := out[key]; twice {
			return nil, usagef("%s names %q twice", flag, key)
		}
		out[key] = value
	}
	return out, nil
}

// showList shows a list: as data, by names alone, or as a table whose first column is the name.
func (a *app) showList(what string, views any, names bool, header []string, rows [][]string) error {
	switch {
	case a.out.Structured():
		return a.out.Value(views)
	case names:
		for _, row := range rows {
			a.out.Line("%s", row[0])
		}
		return nil
	case len(rows) == 0:
		a.out.Line("No %s found.", what)
	}
	a.out.Table(header, rows)
	return nil
}
