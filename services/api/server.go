package api

import (
	"log"
	"log/slog"
	"net/http"
	"time"
)

// Bounds of a connection. A write deadline is set per request (and rolled on by
// the answers that stream), since one for all would cut long ones.
const (
	headerTime     = 10 * time.Second
	bodyTime       = time.Minute
	answerTime     = time.Minute
	idleTime       = 2 * time.Minute
	headerBytes    = 32 << 10
	flushBytes     = 64 << 10
	flushTime      = 500 * time.Millisecond
	stateTime      = 2 * time.Second
	idleArchive    = 5 * time.Minute // ClickHouse sorts before it answers
	idleLog        = 10 * time.Second
	deviceBytes    = 16 << 10
	schemaBytes    = 1 << 20
	shadowBytes    = 128 << 10 // as AWS IoT's broker
	eventReaders   = 8
	eventFollowers = 64

	commandBytes    = 128 << 10
	commandDevices  = 1000 // of one call
	commandsAtOnce  = 32   // that one call has appended side by side
	commandWatchers = 1024
	longestWait     = 50 * time.Second
	beat            = 15 * time.Second // of a stream without news
	reasonBytes     = 1024
)

// Server returns an http.Server with the bounds that keep a slow or hostile
// client from holding what others need. The caller serves and shuts it down.
func Server(h http.Handler, logger *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       bodyTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          log.New(serverLog{logger}, "", 0),
	}
	if streams, ok := h.(interface{ Stop() }); ok {
		s.RegisterOnShutdown(streams.Stop)
	}
	return s
}
