package contract_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"sallyport.dev/sallyport/gen/v00/optionspb"
	"sallyport.dev/sallyport/internal/contract"
)

// rows renders facts as table lines without the column of generations.
func rows(facts []contract.Fact) []string {
	var lines []string
	for _, f := range facts {
		lines = append(lines, strings.Join([]string{string(f.Kind), f.Owner, f.Name, f.Tag, f.Type, f.Detail}, "|"))
	}
	return lines
}

// registry links one file of package pkg that has a little of everything.
func registry(t *testing.T, pkg string) *protoregistry.Files {
	t.Helper()
	str := descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum()
	msg := descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
	one := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()
	many := descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	options := &descriptorpb.MethodOptions{}
	proto.SetExtension(options, optionspb.E_Authorization, &optionspb.AuthorizationRule{AuthMode: "bearer", Scope: "x:read"})
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("t.proto"), Package: proto.String(pkg), Syntax: proto.String("proto3"),
		Dependency: []string{"openshell/options/v1/options.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("M"),
			Field: []*descriptorpb.FieldDescriptorProto{
				{Name: proto.String("plain"), Number: proto.Int32(1), Type: str, Label: one},
				{Name: proto.String("list"), Number: proto.Int32(2), Type: str, Label: many},
				{Name: proto.String("table"), Number: proto.Int32(3), Type: msg, Label: many, TypeName: proto.String("." + pkg + ".M.TableEntry")},
				{Name: proto.String("choice"), Number: proto.Int32(4), Type: str, Label: one, OneofIndex: proto.Int32(0)},
				{Name: proto.String("maybe"), Number: proto.Int32(5), Type: str, Label: one, OneofIndex: proto.Int32(1), Proto3Optional: proto.Bool(true)},
			},
			OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: proto.String("which")}, {Name: proto.String("_maybe")}},
			NestedType: []*descriptorpb.DescriptorProto{{
				Name:    proto.String("TableEntry"),
				Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
				Field: []*descriptorpb.FieldDescriptorProto{
					{Name: proto.String("key"), Number: proto.Int32(1), Type: str, Label: one},
					{Name: proto.String("value"), Number: proto.Int32(2), Type: msg, Label: one, TypeName: proto.String("." + pkg + ".Empty")},
				},
			}},
		}, {Name: proto.String("Empty")}},
		EnumType: []*descriptorpb.EnumDescriptorProto{{
			Name:  proto.String("E"),
			Value: []*descriptorpb.EnumValueDescriptorProto{{Name: proto.String("E_ZERO"), Number: proto.Int32(0)}},
		}},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("S"),
			Method: []*descriptorpb.MethodDescriptorProto{{
				Name: proto.String("Do"), InputType: proto.String("." + pkg + ".M"), OutputType: proto.String("." + pkg + ".Empty"),
				ServerStreaming: proto.Bool(true), Options: options,
			}},
		}},
	}
	linked, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	files := &protoregistry.Files{}
	if err := files.RegisterFile(linked); err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFactsOf(t *testing.T) {
	t.Parallel()
	all := []string{
		"enum|openshell.t.v1.E|E_ZERO|0|-|-",
		"field|openshell.t.v1.Empty|-|0|empty|-",
		"field|openshell.t.v1.M|choice|4|string|which",
		"field|openshell.t.v1.M|list|2|repeated string|-",
		"field|openshell.t.v1.M|maybe|5|optional string|-",
		"field|openshell.t.v1.M|plain|1|string|-",
		"field|openshell.t.v1.M|table|3|map<string,openshell.t.v1.Empty>|-",
		"method|/openshell.t.v1.S/Do|-|-|openshell.t.v1.M -> stream openshell.t.v1.Empty|mode=bearer;scope=x:read",
	}
	for _, tc := range []struct {
		name, pkg, element string
		want               []string
	}{
		{name: "plain package", pkg: "openshell.t.v1", want: all},
		{name: "element left out of names", pkg: "openshell.t.mvp.v1", element: "mvp", want: all},
		{name: "other dialect passed over", pkg: "openshell.t.mvp.v1"},
		{name: "package without the element passed over", pkg: "openshell.t.v1", element: "mvp"},
		{name: "foreign root passed over", pkg: "sallyport.t.v1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := rows(contract.FactsOf(registry(t, tc.pkg), tc.element))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("facts differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadTable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in, err string
		want          []string
	}{
		{name: "comments and blank lines", in: "# head\n\nfield\ta.M\tx\t1\tstring\t-\tmvp\n", want: []string{"field|a.M|x|1|string|-"}},
		{name: "too few columns", in: "field\ta.M\tx\t1\tstring\t-\n", err: "line 1: 6 columns"},
		{name: "unknown kind", in: "thing\ta.M\tx\t1\tstring\t-\tmvp\n", err: `unknown kind "thing"`},
		{name: "twice", in: "field\ta.M\tx\t1\tstring\t-\tmvp\nfield\ta.M\tx\t2\tstring\t-\taug\n", err: "field a.M.x occurs twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			facts, err := contract.ReadTable(strings.NewReader(tc.in))
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Fatalf("error %v, want one with %q", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, rows(facts)); diff != "" {
				t.Errorf("facts differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	x := contract.Fact{Key: contract.Key{Kind: contract.KindField, Owner: "a.M", Name: "x"}, Tag: "1", Type: "string", Detail: "-"}
	moved := x
	moved.Tag = "2"
	for _, tc := range []struct {
		name            string
		want, got       []contract.Fact
		wantDifferences []string
	}{
		{name: "equal", want: []contract.Fact{x}, got: []contract.Fact{x}},
		{name: "missing", want: []contract.Fact{x}, wantDifferences: []string{"field a.M.x: missing (tag 1, type string, detail -)"}},
		{name: "extra", got: []contract.Fact{x}, wantDifferences: []string{"field a.M.x: not in the table (tag 1, type string, detail -)"}},
		{
			name: "changed", want: []contract.Fact{x}, got: []contract.Fact{moved},
			wantDifferences: []string{"field a.M.x: tag 2, type string, detail -; want tag 1, type string, detail -"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.wantDifferences, contract.Compare(tc.want, tc.got)); diff != "" {
				t.Errorf("differences differ (-want +got):\n%s", diff)
			}
		})
	}
}
