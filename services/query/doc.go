// Package query asks ClickHouse what strangers want to know: one statement of
// SQL, as a user that can only read, its answer passed through piece by piece.
//
// It promises that an answer is either whole or ends in an error, that no more
// of it than a piece is in memory, that a statement whose asker has gone is
// ended on the server before its place is given to another, and that each limit
// that was hit is told by name. What a statement may do is decided by the
// server's grants and profile; statements are never looked at here.
//
//	a, err := client.Ask(ctx, query.Statement{Text: "SELECT {n:UInt8}", Format: query.CSV, Parameters: map[string]string{"n": "1"}})
//	if err != nil {
//		return err // a *problem.Problem, or ctx's error
//	}
//	defer a.Close()
//	for {
//		piece, err := a.Next()
//		if err == io.EOF {
//			return nil
//		} else if err != nil {
//			return err
//		}
//		_, _ = w.Write(piece)
//	}
package query
