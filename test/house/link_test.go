package house_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ban is a package, with everything below it, that a binary must not link, and why.
type ban struct{ path, reason string }

// everywhere is what no binary of ours links.
var everywhere = []ban{
	{"testing", "test code in a shipped binary registers flags and ships fixtures"},
	{"net/http/pprof", "its import alone serves heap dumps on the default mux"},
	{"log/syslog", "logs go to standard error; the platform collects them"},
	{module + "/test", "tests are nobody's library"},
}

// platform is what only the driver of a platform links: its client triples a binary.
var platform = []ban{
	{"k8s.io", "the platform is a driver's business, and its client triples a binary"},
	{"sigs.k8s.io", "the platform is a driver's business"},
	{module + "/internal/driverkube", "the platform is a driver's business"},
}

// large are the parts of the platform's client that hold every type of its API and take as much memory as the rest.
var large = []ban{
	{"k8s.io/client-go/kubernetes", "it registers every type of the API; package kubeapi makes the few calls"},
	{"k8s.io/client-go/informers", "they keep whole objects"},
	{"k8s.io/client-go/tools/cache", "it keeps whole objects; package mirror keeps what a status takes"},
	{"sigs.k8s.io/controller-runtime", "the driver is no controller"},
	{"sigs.k8s.io/agent-sandbox", "both versions of its objects are read, whose types clash"},
	{"modernc.org", "only the gateway stores"},
	{"charm.land", "no one sits at its terminal"},
	{"connectrpc.com", "it speaks gRPC only"},
	{module + "/internal/api", "a client talks over the wire"},
	{module + "/internal/gateway", "a client talks over the wire"},
	{module + "/internal/store", "only the gateway stores"},
	{module + "/internal/cli", "not a person's tool"},
	{module + "/internal/supervisor", "a sandbox's inside is another process"},
}

// small is what the processes of few megabytes do not link: they stand beside or inside every sandbox.
var small = []ban{
	{"expvar", "its import alone serves the command line on the default mux; only the gateway's metrics library links it, and the gateway serves no default mux"},
	{"go.opentelemetry.io", "metrics of a sandbox are the gateway's to keep"},
	{"github.com/prometheus", "metrics of a sandbox are the gateway's to keep"},
	{"charm.land", "no one sits at its terminal"},
	{"github.com/charmbracelet", "no one sits at its terminal"},
	{"modernc.org", "only the gateway stores"},
	{"connectrpc.com", "it speaks gRPC only"},
	{module + "/internal/api", "a client talks over the wire"},
	{module + "/internal/gateway", "a client talks over the wire"},
	{module + "/internal/store", "only the gateway stores"},
	{module + "/internal/cli", "not a person's tool"},
	{module + "/internal/dev", "the development set-up is the user's command"},
	{module + "/internal/devidp", "the development identity provider belongs to the development set-up"},
}

// commands lists every binary with what it must not link beside everywhere.
var commands = map[string][]ban{
	"sallyport": {
		{module + "/internal/supervisor", "a sandbox's inside is another process"},
	},
	"sallyport-gateway": {
		{"charm.land", "no one sits at its terminal"},
		{"github.com/charmbracelet", "no one sits at its terminal"},
		{"github.com/luikyv/go-oidc", "no shipped gateway carries an identity provider"},
		{module + "/internal/devidp", "no shipped gateway carries an identity provider"},
		{module + "/internal/dev", "the development set-up starts the gateway, not the reverse"},
		{module + "/internal/cli", "the gateway is no client"},
		{module + "/internal/supervisor", "a sandbox's inside is another process"},
	},
	"sallyport-supervisor":     small,
	"sallyport-driver-process": small,
	"sallyport-driver-oauth2":  small,

	kubernetesDriver: large,
}

// kubernetesDriver is the one binary that may link the platform's client.
const kubernetesDriver = "sallyport-driver-kubernetes"

func TestEveryCommandIsListed(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(filepath.Join("..", "..", "cmd"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	for _, name := range found {
		if _, ok := commands[name]; !ok {
			t.Errorf("cmd/%s: say here what it must not link", name)
		}
	}
	for name := range commands {
		if !slices.Contains(found, name) {
			t.Errorf("cmd/%s is listed here and does not exist", name)
		}
	}
}

func TestCommandsLinkOnlyWhatTheyNeed(t *testing.T) {
	t.Parallel()
	for _, name := range slices.Sorted(maps.Keys(commands)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := os.Stat(filepath.Join("..", "..", "cmd", name)); err != nil {
				t.Skip("no such command; TestEveryCommandIsListed reports it")
			}
			bans := slices.Concat(everywhere, commands[name])
			if name != kubernetesDriver {
				bans = append(bans, platform...)
			}
			for _, linked := range list(t, "-deps", "./cmd/"+name) {
				for _, b := range bans {
					if linked.ImportPath == b.path || strings.HasPrefix(linked.ImportPath, b.path+"/") {
						t.Errorf("links %s: %s", linked.ImportPath, b.reason)
					}
				}
			}
		})
	}
}
