package columnar

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"
)

// ErrFenced means that another process has taken over the partition: this
// writer must not go on, and nothing that it has sent can arrive any more.
var ErrFenced = errors.New("another writer has taken over the partition")

// claim makes this writer the partition's only one, and is the first step out
// of any doubt, whether a predecessor's or this writer's own.
//
// Every insert asks, before it reads its data, whether its term is still the
// highest (fence). Raising the term therefore stops each insert that has not
// begun, and ending the queries that run stops the others: after claim has
// returned nothing of a former term can add rows, not even a request that was
// lying in a socket all the time.
//
// Errors: ErrFenced when somebody else has raised the term since.
func (w *Writer) claim(ctx context.Context, first bool) error {
	highest, err := w.highestTerm(ctx)
	if err != nil {
		return err
	}
	if !first && !w.claims[highest] {
		return ErrFenced
	}
	term := (highest>>32+1)<<32 | uint64(rand.Uint32()) // two that claim at once differ
	w.claims[term] = true
	host, _ := os.Hostname()
	sql := fmt.Sprintf("INSERT INTO %s (partition, term, who) VALUES (%d, %d, %s)",
		w.table(writersTable), w.cfg.Partition, term, text(fmt.Sprintf("%s pid %d", host, os.Getpid())))
	if err := w.post(ctx, url.Values{"async_insert": {"0"}, "wait_end_of_query": {"1"}}, strings.NewReader(sql)); err != nil {
		return fmt.Errorf("claim the partition: %w", err)
	}
	switch highest, err = w.highestTerm(ctx); {
	case err != nil:
		return err
	case highest == term:
	case w.claims[highest]:
		return errors.New("claim the partition: an earlier claim of ours has just arrived")
	default:
		return ErrFenced
	}
	w.term = term
	return w.killFormer(ctx)
}

// fence is the condition that every insert carries.
func (w *Writer) fence() string {
	return fmt.Sprintf("throwIf(ifNull((SELECT max(term) FROM %s WHERE partition = %d), 0) != %d, 'fenced: the partition has another writer') = 0",
		w.table(writersTable), w.cfg.Partition, w.term)
}

func (w *Writer) highestTerm(ctx context.Context) (uint64, error) {
	var term uint64
	row := w.conn.QueryRow(ctx, fmt.Sprintf("SELECT max(term) FROM %s WHERE partition = ?", w.table(writersTable)), w.cfg.Partition)
	if err := row.Scan(&term); err != nil {
		return 0, fmt.Errorf("read the partition's term: %w", err)
	}
	return term, nil
}

// killFormer ends the inserts of former terms and waits until they are gone.
func (w *Writer) killFormer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(w.cfg.Patience, 10*time.Second)) // then it shows in Status, and is tried again
	defer cancel()
	former := fmt.Sprintf("startsWith(query_id, %s) AND NOT startsWith(query_id, %s)", text(w.queryPrefix()), text(w.queryID("")))
	for {
		if err := w.conn.Exec(ctx, "KILL QUERY WHERE "+former+" ASYNC"); err != nil {
			return fmt.Errorf("end earlier inserts: %w", err)
		}
		var n uint64
		if err := w.conn.QueryRow(ctx, "SELECT count() FROM system.processes WHERE "+former).Scan(&n); err != nil {
			return fmt.Errorf("look for earlier inserts: %w", err)
		}
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d earlier inserts to end: %w", n, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// queryPrefix begins the id of every insert into the partition's tables.
func (w *Writer) queryPrefix() string {
	return fmt.Sprintf("tacho-%s-%d-", w.cfg.Server.Name(), w.cfg.Partition)
}

func (w *Writer) queryID(rest string) string {
	return fmt.Sprintf("%s%d-%s", w.queryPrefix(), w.term, rest)
}

func (w *Writer) table(name string) string {
	return quote(w.cfg.Server.Name()) + "." + quote(name)
}
