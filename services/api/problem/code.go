package problem

import (
	"iter"
	"maps"
	"net/http"
	"slices"
)

// A Code names a class of problem; clients branch on it.
type Code string

// The codes. Their rows in the table hold status and hint.
const (
	InvalidRequest     Code = "invalid_request"        // query, header or path that cannot be understood
	InvalidBody        Code = "invalid_body"           // a body that is not the JSON asked for
	InvalidDeviceID    Code = "invalid_device_id"      // an id that no device can have
	InvalidMessageType Code = "invalid_message_type"   // a message type name that no schema can have
	InvalidSchema      Code = "invalid_schema"         // a schema that does not parse or cannot become a table
	IncompatibleSchema Code = "incompatible_schema"    // a change that would break what is stored
	UndecodablePayload Code = "undecodable_payload"    // telemetry that does not fit its schema; see details.kept
	Unauthenticated    Code = "unauthenticated"        // no token, or one that is not known
	Forbidden          Code = "forbidden"              // a known token that may not do this
	NotFound           Code = "not_found"              // no such path
	DeviceNotFound     Code = "device_not_found"       // no such device
	SchemaNotFound     Code = "schema_not_found"       // no such schema, or no such version of it
	InvalidShadow      Code = "invalid_shadow"         // a shadow request that breaks a rule of its document
	ShadowNotFound     Code = "shadow_not_found"       // the device has no shadow of that name
	ProjectionNotFound Code = "projection_not_found"   // no such projection, or none that can be replayed
	StateNotFound      Code = "state_not_found"        // the device exists and has sent nothing yet
	InvalidCommand     Code = "invalid_command"        // a command that no device could be sent
	DeadlinePassed     Code = "deadline_passed"        // a command whose deadline is not in the future
	CommandNotFound    Code = "command_not_found"      // the device has no command of that id
	KeyReused          Code = "idempotency_key_reused" // the key was used for another request
	CommandFinal       Code = "command_final"          // a command that has its final state cannot be cancelled
	TooManyCommands    Code = "too_many_commands"      // the device has as many open commands as it may
	InvalidQuery       Code = "invalid_query"          // a statement that ClickHouse cannot read or answer
	QueryForbidden     Code = "query_forbidden"        // a statement that does more than read, or reads what it may not
	QueryLimit         Code = "query_limit"            // a statement that went over the limit that details.limit names
	QueryNotFound      Code = "query_not_found"        // no such statement, or one of long ago
	NotAcceptable      Code = "not_acceptable"         // no format of an answer is among those asked for
	LetterNotFound     Code = "dead_letter_not_found"  // no such dead letter
	ForgetNotFound     Code = "forget_not_found"       // no such request that data be forgotten
	MethodNotAllowed   Code = "method_not_allowed"     // the path exists, the method does not
	DeviceExists       Code = "device_exists"          // an id that is taken
	ReplayRunning      Code = "replay_running"         // one at a time
	NothingToUndo      Code = "nothing_to_undo"        // no replay has been swapped in
	NothingToDiscard   Code = "nothing_to_discard"     // no replay has left anything half built
	SwapUnfinished     Code = "swap_unfinished"        // a replay was interrupted while it swapped
	VersionConflict    Code = "version_conflict"       // the shadow has another version than the request names
	Conflict           Code = "conflict"               // another writer was first
	PayloadTooLarge    Code = "payload_too_large"      // body or message over its limit
	UnsupportedMedia   Code = "unsupported_media"      // a content type or encoding that is not read here
	TooManyRequests    Code = "too_many_requests"      // over a rate or concurrency limit
	Timeout            Code = "timeout"                // the request was not read or answered in time
	LogFull            Code = "log_full"               // the log takes nothing more
	OutcomeUnknown     Code = "outcome_unknown"        // may or may not have happened
	HistoryTruncated   Code = "history_truncated"      // asked for events that were purged
	UnknownPosition    Code = "unknown_position"       // asked for what follows a position that the log doesn't have
	Unavailable        Code = "unavailable"            // starting, stopping, or a part is down
	NotReady           Code = "not_ready"              // readyz: details.waiting_for says what for
	Internal           Code = "internal"               // a defect of ours; the log has the request id
)

type row struct {
	status     int
	retryAfter int // seconds
	hint       string
}

var table = map[Code]row{
	InvalidRequest:     {status: 400, hint: "see /openapi.yaml for the parameters of this call"},
	InvalidBody:        {status: 400, hint: "see /openapi.yaml for the body of this call"},
	InvalidDeviceID:    {status: 400, hint: "1 to 128 bytes of UTF-8, without control characters, '/', '#', '+', and spaces at either end"},
	InvalidMessageType: {status: 400, hint: "a lower-case letter, then up to 62 of a-z, 0-9 and _; names of built-in tables are reserved"},
	InvalidSchema:      {status: 422, hint: "mend the schema at the place named; ?dry_run=true checks without registering"},
	IncompatibleSchema: {status: 409, hint: "add new optional fields instead of changing old ones, or register it under another name"},
	UndecodablePayload: {status: 422, hint: "mend the payload; when details.kept is true it is in tacho.dead_letters and must not be sent again unchanged"},
	Unauthenticated:    {status: 401, hint: "send Authorization: Bearer TOKEN; the admin token is in admin.token of the data folder, a device's is printed by tacho device add"},
	Forbidden:          {status: 403, hint: "a device's token serves only its own device, the analyst's only /v1/query; use the admin token"},
	NotFound:           {status: 404, hint: "see /openapi.yaml for the paths"},
	DeviceNotFound:     {status: 404, hint: "tacho device list shows the devices; tacho device add ID adds one"},
	SchemaNotFound:     {status: 404, hint: "tacho schema list shows the schemas and their versions"},
	InvalidShadow:      {status: 400, hint: "mend the document: {\"state\":{\"desired\":{…},\"reported\":{…}},\"version\":N,\"clientToken\":\"…\"}"},
	ShadowNotFound:     {status: 404, hint: "an update makes the shadow; tacho shadow list DEVICE shows the names there are"},
	ProjectionNotFound: {status: 404, hint: "GET /v1/projections lists what runs; columnar can be replayed"},
	StateNotFound:      {status: 404, hint: "the device exists but nothing of it has been folded yet; send a message first"},
	InvalidCommand:     {status: 400, hint: "see /openapi.yaml for what a command holds; parameters must fit the schema command_NAME where there is one"},
	DeadlinePassed:     {status: 400, hint: "give a deadline in the future, such as 30s"},
	CommandNotFound:    {status: 404, hint: "tacho command list DEVICE shows the newest; older ones are in tacho.commands"},
	KeyReused:          {status: 409, hint: "use a new Idempotency-Key for every new request, and the same only for the very same body"},
	CommandFinal:       {status: 409, hint: "it is over; tacho command watch DEVICE ID, or GET, shows what came of it"},
	TooManyCommands:    {status: 429, retryAfter: 60, hint: "cancel some, or wait until they are answered or past their deadlines; --max-commands sets the number"},
	InvalidQuery:       {status: 400, hint: "mend the statement; where details has line and column, there it stops making sense"},
	QueryForbidden:     {status: 403, hint: "ask with SELECT, SHOW, DESCRIBE or EXPLAIN, of the tables in tacho, without SETTINGS; SHOW GRANTS tells what may be read"},
	QueryLimit:         {status: 422, hint: "ask for less: a shorter stretch of time, fewer columns, LIMIT, or the roll-ups (tacho.position_1h); tacho serve --help has the limits"},
	QueryNotFound:      {status: 404, hint: "the id is X-Query-Id of an answer of this process; the newest 1000 are known"},
	NotAcceptable:      {status: 406, hint: "ask with ?format=json, ndjson, csv, tsv, table, parquet or arrow"},
	LetterNotFound:     {status: 404, hint: "GET /v1/dead-letters lists them; one is named epoch.partition.sequence-sample, and is there once ClickHouse has its message"},
	ForgetNotFound:     {status: 404, hint: "GET /v1/forget lists the requests"},
	MethodNotAllowed:   {status: 405, hint: "the Allow header lists the methods of this path"},
	DeviceExists:       {status: 409, hint: "choose another id; for a new token of this one: tacho device token ID"},
	ReplayRunning:      {status: 409, hint: "GET tells how far it is, DELETE ends it"},
	NothingToUndo:      {status: 409, hint: "a replay that was swapped in can be undone until the next one begins"},
	NothingToDiscard:   {status: 409, hint: "what served before a replay is no such thing; it is kept to undo that until the next one begins"},
	SwapUnfinished:     {status: 409, hint: "let it be finished first: what was built may be all that there is of some of it"},
	VersionConflict:    {status: 409, hint: "get the shadow, decide again, send its version; or leave the version out"},
	Conflict:           {status: 409, retryAfter: 1, hint: "read again, decide again, send again"},
	PayloadTooLarge:    {status: 413, hint: "send less at once: split the batch"},
	UnsupportedMedia:   {status: 415, hint: "see /openapi.yaml for the content types of this call"},
	TooManyRequests:    {status: 429, retryAfter: 1, hint: "send more slowly"},
	Timeout:            {status: 408, hint: "send the request faster, or less of it"},
	LogFull:            {status: 503, retryAfter: 30, hint: "free disk space or raise the log's limit; keep the message and send it again"},
	OutcomeUnknown:     {status: 504, retryAfter: 1, hint: "it may or may not have been stored: look before sending it again"},
	HistoryTruncated:   {status: 410, hint: "begin with from=beginning, which is details.oldest; older events are in ClickHouse: SELECT ... FROM tacho.events"},
	UnknownPosition:    {status: 416, hint: "begin with details.oldest, beginning or now; the log was restored or is another one, if this was a token of it"},
	Unavailable:        {status: 503, retryAfter: 1, hint: "try again; /readyz says what is missing"},
	NotReady:           {status: 503, retryAfter: 1, hint: "wait; details.waiting_for names what is missing"},
	Internal:           {status: 500, hint: "this is a defect; report it with the X-Request-Id of this answer"},
}

// Status returns the code's HTTP status; 500 for a code not in the table.
func (c Code) Status() int {
	if r, ok := table[c]; ok {
		return r.status
	}
	return http.StatusInternalServerError
}

// Hint returns what to do about it.
func (c Code) Hint() string { return table[c].hint }

// RetryAfter returns after how many seconds the same request may succeed; 0
// when a repeat is pointless or free.
func (c Code) RetryAfter() int { return table[c].retryAfter }

// Codes yields every code, sorted.
func Codes() iter.Seq[Code] {
	return slices.Values(slices.Sorted(maps.Keys(table)))
}
