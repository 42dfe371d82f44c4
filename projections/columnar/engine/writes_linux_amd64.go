package engine

import (
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"
)

var (
	writeAddress uintptr // of write in the assembly
	libcWrite    uintptr // where it goes on
)

// guardWrites makes the library's writes end the process when the disk is full
// or broken. The library leaves them out and goes on (in its
// WriteBufferFromFileDescriptor the error is not thrown, as it is in ClickHouse):
// an insert is acknowledged whose part is torn, a merge puts a torn part in place
// of whole ones, and ALTER leaves an empty definition of a table. A process that
// has ended in the middle of a write is what the exactly-once writer knows how to
// go on from; see brokenWrite.
//
// The library calls write through pointers that the loader has filled in. They
// are pointed at the assembly's.
func guardWrites(path string, handle uintptr) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return err
	}
	const known = "chdb_query_cmdline"
	loaded, err := purego.Dlsym(handle, known)
	if err != nil {
		return err
	}
	var base uintptr
	write := -1
	for i, s := range symbols {
		switch {
		case s.Name == known:
			base = loaded - uintptr(s.Value)
		case s.Name == "write" && s.Section == elf.SHN_UNDEF:
			write = i + 1 // the symbol that is none is left out
		}
	}
	if base == 0 || write < 0 {
		return errors.New("its symbols are not as expected")
	}
	slots, err := slotsOf(f, base, uint32(write))
	if err != nil {
		return err
	}
	for _, slot := range slots {
		if err := point(slot); err != nil {
			return err
		}
	}
	return nil
}

// slotsOf returns where the loader has put the address of a symbol.
func slotsOf(f *elf.File, base uintptr, symbol uint32) (slots []uintptr, err error) {
	tags := map[elf.DynTag]uintptr{elf.DT_RELA: 0, elf.DT_RELASZ: 0, elf.DT_RELACOUNT: 0, elf.DT_JMPREL: 0, elf.DT_PLTRELSZ: 0}
	for tag := range tags {
		values, err := f.DynValue(tag)
		if err != nil {
			return nil, err
		}
		if len(values) != 1 {
			return nil, fmt.Errorf("it has %d values for %s", len(values), tag)
		}
		tags[tag] = uintptr(values[0])
	}
	relocations := func(table, bytes uintptr) []elf.Rela64 {
		return unsafe.Slice((*elf.Rela64)(at(base+table)), bytes/unsafe.Sizeof(elf.Rela64{}))
	}
	named := relocations(tags[elf.DT_RELA], tags[elf.DT_RELASZ])[tags[elf.DT_RELACOUNT]:] // those of no symbol come first
	for _, r := range append(slices.Clone(named), relocations(tags[elf.DT_JMPREL], tags[elf.DT_PLTRELSZ])...) {
		if elf.R_SYM64(r.Info) == symbol {
			slots = append(slots, base+uintptr(r.Off))
		}
	}
	if len(slots) == 0 {
		return nil, errors.New("it calls no write")
	}
	return slots, nil
}

// point sends one of the library's calls of write to ours.
func point(slot uintptr) error {
	page := uintptr(unix.Getpagesize())
	memory := unsafe.Slice((*byte)(at(slot&^(page-1))), page)
	if err := unix.Mprotect(memory, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("make a page writable: %w", err)
	}
	of := (*uintptr)(at(slot))
	if libcWrite != 0 && libcWrite != *of {
		return errors.New("it calls two of them")
	}
	libcWrite, *of = *of, writeAddress
	return nil
}

// at is the memory at an address that the loader, not Go, has given out.
func at(address uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&address)) }
