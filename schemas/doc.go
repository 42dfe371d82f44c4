// Package schemas says what a payload means.
//
// A schema is data: the text of a .proto file or of a JSON Schema, registered
// at run time. From it follow the ClickHouse columns (Schema.Columns), the
// Arrow schema (Schema.Arrow), the check at the door (Checker) and the decoder
// that turns payloads into Arrow columns without a map, a struct or an
// allocation per row (Batch).
//
//	reg := schemas.NewRegistry()
//	s, _, err := reg.Add("position", schemas.Source{Format: schemas.FormatProto, Text: text})
//	b := s.NewBatch(memory.DefaultAllocator)
//	rows, bad, err := b.Append(payload, received)
//	rec := b.Record()
//
// It promises that nothing a device sends is dropped without a word: fields the
// schema does not know go to the column _unknown, a sample that does not fit is
// reported with its bytes and its reason while its siblings stay.
//
// It refuses a change of a schema that would make stored rows mean something
// else. It knows neither NATS nor ClickHouse's wire nor HTTP.
package schemas
