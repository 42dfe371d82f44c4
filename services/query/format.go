package query

import (
	"mime"
	"strconv"
	"strings"
)

// A Format is how an answer is written.
type Format struct {
	Name        string // as callers name it
	ContentType string
	ClickHouse  string // the server's name of it
}

// The formats.
var (
	JSON    = Format{"json", "application/json", "JSON"}                               // one document: meta, data, rows, statistics
	NDJSON  = Format{"ndjson", "application/x-ndjson", "JSONEachRow"}                  // an object a line
	CSV     = Format{"csv", "text/csv; charset=utf-8; header=present", "CSVWithNames"} // RFC 4180 with a header
	TSV     = Format{"tsv", "text/tab-separated-values; charset=utf-8", "TSV"}         // no header; tabs and line feeds escaped
	Table   = Format{"table", "text/plain; charset=utf-8", "PrettyCompactMonoBlock"}   // for eyes; the server holds all of it
	Parquet = Format{"parquet", "application/vnd.apache.parquet", "Parquet"}           // a file
	Arrow   = Format{"arrow", "application/vnd.apache.arrow.stream", "ArrowStream"}    // Arrow's streaming format
	Formats = []Format{JSON, NDJSON, CSV, TSV, Table, Parquet, Arrow}                  // the first is the default
	aliases = map[string]Format{"application/ndjson": NDJSON, "application/jsonl": NDJSON, "application/parquet": Parquet, "application/x-parquet": Parquet}
)

// FormatOf returns the format of a name.
func FormatOf(name string) (Format, bool) {
	for _, f := range Formats {
		if f.Name == name {
			return f, true
		}
	}
	return Format{}, false
}

// Accepted returns the format that an Accept header prefers; JSON for an empty
// one and wherever it leaves the choice. ok is false when it has none of them.
func Accepted(header string) (format Format, ok bool) {
	if strings.TrimSpace(header) == "" {
		return JSON, true
	}
	best := 0.0
	for _, part := range strings.Split(header, ",") {
		media, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		weight := 1.0
		if q, given := parameters["q"]; given {
			if weight, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		if f, known := mediaOf(media); known && weight > best {
			format, ok, best = f, true, weight
		}
	}
	return format, ok
}

func mediaOf(media string) (Format, bool) {
	kind, isRange := strings.CutSuffix(media, "/*")
	for _, f := range Formats {
		own, _, _ := strings.Cut(f.ContentType, ";")
		if own == media || isRange && (kind == "*" || strings.HasPrefix(own, kind+"/")) {
			return f, true
		}
	}
	f, ok := aliases[media]
	return f, ok
}
