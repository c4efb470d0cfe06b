package cli

import (
	"fmt"
	"strings"
)

// advices are what to do about reasons of the condition Ready and of events, in lower case, with %s for the sandbox. They
// are the words of drivers and of the platforms behind them; the first whose part is in the reason counts.
var advices = []struct{ part, next string }{
	{"backendresourcemissing", "the platform has lost the sandbox: `sallyport sandbox delete %s`, then create it anew"},
	{"computeresourcemissing", "the platform has lost the sandbox: `sallyport sandbox delete %s`, then create it anew"},
	{"startfailed", "look at the compute driver's log, then try `sallyport sandbox delete %s` and create it anew"},
	{"mainprocessexited", "look into `sallyport logs %[1]s`; `sallyport sandbox stop %[1]s` and `sallyport sandbox start %[1]s` run it again"},
	{"supervisorexited", "look into `sallyport logs %[1]s` and the compute driver's log; `sallyport sandbox stop %[1]s` and `sallyport sandbox start %[1]s` run it again"},
	{"supervisornotconnected", "the sandbox runs, and its supervisor has not reached the gateway yet: check the address and the certificate that the driver gives it"},
	{"dependenciesnotready", "wait; the supervisor connects again by itself"},
	{"unschedulable", "no machine has room or fits: ask for less with --cpu, --memory or no GPU, or have the cluster's operator add machines"},
	{"failedscheduling", "no machine has room or fits: ask for less with --cpu, --memory or no GPU, or have the cluster's operator add machines"},
	{"quota", "the namespace's quota is used up: delete sandboxes that are not needed, ask for less, or have the quota raised"},
	{"invalidimage", "mend the image's name: `sallyport sandbox create --from IMAGE`"},
	{"imagepull", "check that the image exists and that the cluster may pull it (pull secrets), then create the sandbox with `--from IMAGE`"},
	{"image", "check the image: `sallyport sandbox create --from IMAGE`"},
	{"mount", "a volume or secret is missing or cannot be attached: see the events, or ask the cluster's operator"},
	{"volume", "a volume is missing or cannot be attached: see the events, or ask the cluster's operator"},
	{"evicted", "its machine ran out of memory or disk: `sallyport sandbox stop %[1]s` and `sallyport sandbox start %[1]s` run it elsewhere"},
	{"preempt", "something more important took its place: `sallyport sandbox stop %[1]s` and `sallyport sandbox start %[1]s` run it again"},
	{"oomkilled", "it used more memory than it may: create it anew with a larger --memory"},
	{"backoff", "what it runs ends again and again: look into `sallyport logs %s`"},
	{"stopping", "wait until it is stopped; `sallyport sandbox start %s` starts it again"},
	{"stopped", "start it: `sallyport sandbox start %s`"},
	{"suspended", "start it: `sallyport sandbox start %s`"},
}

// nextMark is how drivers put what to do behind what is wrong.
const nextMark = "; next: "

// nextStep is what to do about a condition: what its message says, else what is known about its reason.
func nextStep(reason, message, name string) string {
	if i := strings.LastIndex(message, nextMark); i >= 0 {
		return message[i+len(nextMark):]
	}
	return advice(reason, name)
}

// advice is what to do about a reason; empty where nothing is known.
func advice(reason, name string) string {
	reason = strings.ToLower(reason)
	for _, a := range advices {
		if reason == "" || !strings.Contains(reason, a.part) {
			continue
		}
		if !strings.Contains(a.next, "%") {
			return a.next
		}
		return fmt.Sprintf(a.next, name)
	}
	return ""
}
