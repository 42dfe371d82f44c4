package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// dropEmptyDefinitions removes the empty files that CREATE TABLE leaves behind
// when the disk fills up under it: the engine would refuse to start for good
// ("Empty query: Cannot parse definition from metadata file"). Such a table was
// never there; who wants it creates it again. It is called before a start: the
// folder may be a running engine's, which has none such, or is about to lock it.
func (c Config) dropEmptyDefinitions() error {
	store := filepath.Join(c.Dir, "store")
	for _, pattern := range []string{"metadata/*.sql", "metadata/*/*.sql", "store/*/*/*.sql"} {
		files, err := filepath.Glob(filepath.Join(store, pattern))
		if err != nil {
			return err
		}
		for _, file := range files {
			info, err := os.Lstat(file)
			if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
				err = os.Remove(file)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove an empty table definition: %w", err)
			}
		}
	}
	return nil
}
