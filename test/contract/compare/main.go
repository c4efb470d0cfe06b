// Command compare checks descriptor sets against the tables of the wire contract and prints every
// difference.
//
//	compare -tables DIR TABLE=FILE[:ELEMENT] ...
//
// FILE is a binary FileDescriptorSet with its imports, as buf build writes it. ELEMENT is the package
// element that keeps the dialect apart from others and is not part of the names on the wire.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"sallyport.dev/sallyport/internal/contract"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	tables := flags.String("tables", ".", "directory of the tables")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("name at least one TABLE=FILE[:ELEMENT]")
	}
	total := 0
	for _, arg := range flags.Args() {
		table, source, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("read argument %q: want TABLE=FILE[:ELEMENT]", arg)
		}
		file, element, _ := strings.Cut(source, ":")
		differences, facts, err := compare(filepath.Join(*tables, table+".tsv"), file, element)
		if err != nil {
			return fmt.Errorf("compare %s: %w", table, err)
		}
		for _, difference := range differences {
			fmt.Fprintf(out, "%s: %s\n", table, difference)
		}
		fmt.Fprintf(out, "%s: %d facts, %d differences\n", table, facts, len(differences))
		total += len(differences)
	}
	if total > 0 {
		return fmt.Errorf("%d differences between the proto files and the tables", total)
	}
	return nil
}

// compare returns the differences and the number of facts the table holds.
func compare(table, file, element string) ([]string, int, error) {
	in, err := os.Open(table)
	if err != nil {
		return nil, 0, err
	}
	defer in.Close()
	want, err := contract.ReadTable(in)
	if err != nil {
		return nil, 0, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, 0, err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		return nil, 0, fmt.Errorf("decode %s: %w", file, err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, 0, fmt.Errorf("link %s: %w", file, err)
	}
	return contract.Compare(want, contract.FactsOf(files, element)), len(want), nil
}
