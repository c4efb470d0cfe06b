package v00

//go:generate go run ./statuspage ../../../docs/status.md

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Plan names the part of the work in which an RPC that is not built yet comes.
type Plan string

// The parts of the work that hold what is missing.
const (
	PlanProviders Plan = "provider profiles and credential refresh"
	PlanPolicy    Plan = "settings and policy"
	PlanInference Plan = "inference routes"
)

// Planned lists the RPCs that this dialect defines and this version does not answer, by full method name. A test
// calls every RPC and fails where this table and the code differ.
func Planned() map[string]Plan {
	out := map[string]Plan{}
	for plan, methods := range map[Plan]string{
		PlanProviders: "ListProviderProfiles GetProviderProfile LintProviderProfiles ImportProviderProfiles UpdateProviderProfiles DeleteProviderProfile " +
			"GetProviderRefreshStatus ConfigureProviderRefresh RotateProviderCredential DeleteProviderRefresh ExchangeProviderSubjectToken",
		PlanPolicy: "SubmitPolicyAnalysis GetDraftPolicy GetDraftHistory " +
			"ApproveDraftChunk ApproveAllDraftChunks RejectDraftChunk EditDraftChunk UndoDraftChunk ClearDraftChunks",
	} {
		for m := range strings.FieldsSeq(methods) {
			out["/openshell.v1.OpenShell/"+m] = plan
		}
	}
	for m := range strings.FieldsSeq("GetInferenceBundle SetClusterInference GetClusterInference SetInferenceRoute GetInferenceRoute DeleteInferenceRoute") {
		out["/openshell.inference.v1.Inference/"+m] = PlanInference
	}
	return out
}

// StatusPage renders docs/status.md: every RPC of this dialect, and whether it is answered.
func StatusPage() string {
	planned := Planned()
	var b strings.Builder
	b.WriteString("# What is built\n\nGenerated from the code by `go generate ./internal/api/v00`; do not edit.\n\n" +
		"An RPC that is not built answers UNIMPLEMENTED, names itself and points here. It is authorized first, like any other.\n\n")
	for _, s := range Descriptors() {
		fmt.Fprintf(&b, "## %s\n\n| RPC | State |\n|---|---|\n", s.FullName())
		for i := range s.Methods().Len() {
			m := s.Methods().Get(i)
			state := "built"
			if plan, ok := planned[fmt.Sprintf("/%s/%s", s.FullName(), m.Name())]; ok {
				state = "planned: " + string(plan)
			}
			fmt.Fprintf(&b, "| %s | %s |\n", m.Name(), state)
		}
		b.WriteString("\n")
	}
	plans := slices.Sorted(maps.Keys(counts(planned)))
	b.WriteString("## What comes when\n\n| Part of the work | RPCs |\n|---|--:|\n")
	for _, p := range plans {
		fmt.Fprintf(&b, "| %s | %d |\n", p, counts(planned)[p])
	}
	b.WriteString("\n" + settingsNote)
	return b.String()
}

func counts(planned map[string]Plan) map[Plan]int {
	out := map[Plan]int{}
	for _, p := range planned {
		out[p]++
	}
	return out
}

const settingsNote = `## Settings without effect

The gateway accepts the flags and file keys of both 0.0.x generations. Those that have no effect in this
version are printed as warnings at start, one line each.
`
