package vehiclepb

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/tachograph/tachograph/schemas/vehicle"
)

var update = flag.Bool("update", false, "write position.pb.go")

// TestGenerated holds position.pb.go to the built-in schema.
func TestGenerated(t *testing.T) {
	const file, committed = "position.proto", "position.pb.go"
	source := ""
	for _, n := range vehicle.Schemas() {
		if n.Name == "position" {
			source = n.Source.Text
		}
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(map[string]string{file: source})}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiled, err := compiler.Compile(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	plugin, err := protogen.Options{}.New(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{file},
		Parameter:      proto.String("M" + file + "=github.com/tachograph/tachograph/loadtest/peers/vehiclepb"),
		ProtoFile: []*descriptorpb.FileDescriptorProto{
			protodesc.ToFileDescriptorProto(timestamppb.File_google_protobuf_timestamp_proto),
			protodesc.ToFileDescriptorProto(compiled[0]),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	internal_gengo.GenerateFile(plugin, plugin.FilesByPath[file])
	response := plugin.Response()
	if len(response.File) != 1 {
		t.Fatalf("%d files: %s", len(response.File), response.GetError())
	}
	want := []byte(response.File[0].GetContent())
	if *update {
		if err := os.WriteFile(committed, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(committed); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s is not what the schema gives (%v); go test ./peers/vehiclepb -update writes it", committed, err)
	}
}
