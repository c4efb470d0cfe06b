// Package contract_test compares the messages and services this module links, as they really are in its
// binaries, with the tables of the wire contract kept beside it. It knows the generated packages and
// nothing of who serves or calls them.
package contract_test

import (
	"os"
	"testing"

	"google.golang.org/protobuf/reflect/protoregistry"

	_ "sallyport.dev/sallyport/gen/mvp/credentialspb"
	_ "sallyport.dev/sallyport/gen/v00/computepb"
	_ "sallyport.dev/sallyport/gen/v00/credentialspb"
	_ "sallyport.dev/sallyport/gen/v00/datamodelpb"
	_ "sallyport.dev/sallyport/gen/v00/inferencepb"
	_ "sallyport.dev/sallyport/gen/v00/interceptorpb"
	_ "sallyport.dev/sallyport/gen/v00/middlewarepb"
	_ "sallyport.dev/sallyport/gen/v00/openshellpb"
	_ "sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/contract"
)

func TestLinkedContractMatchesTables(t *testing.T) {
	t.Parallel()
	for _, dialect := range []struct {
		table, element string
		facts          int // A table cut short would agree with anything cut as short.
	}{
		{table: "0.0.tsv", facts: 1231},
		{table: "0.0-mvp-credentials.tsv", element: "mvp", facts: 10},
	} {
		t.Run(dialect.table, func(t *testing.T) {
			t.Parallel()
			want := readTable(t, dialect.table)
			if len(want) != dialect.facts {
				t.Errorf("table holds %d facts, want %d", len(want), dialect.facts)
			}
			for _, difference := range contract.Compare(want, contract.FactsOf(protoregistry.GlobalFiles, dialect.element)) {
				t.Error(difference)
			}
		})
	}
}

func readTable(t *testing.T, name string) []contract.Fact {
	t.Helper()
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	facts, err := contract.ReadTable(in)
	if err != nil {
		t.Fatal(err)
	}
	return facts
}
