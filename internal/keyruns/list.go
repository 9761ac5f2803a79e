package keyruns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// The list names all runs, in one file that is replaced as a whole:
//
//	list  "oncekv keylist 1" 16 | length of what follows 4 | … | CRC-32C of all before 4
//	…     mark: revision 8, digest 32 | next run 8 | runs 4, of each: number 8 | keys 8 | bytes 8 | checksum of its end 4
//
// Numbers are big endian.
const (
	listName       = "list"
	listTemporary  = "list.tmp"
	listMagic      = "oncekv keylist 1"
	listFixedBytes = 8 + 32 + 8 + 4
	listRunBytes   = 8 + 8 + 8 + 4
	listBytesMax   = 64 << 20 // more than any has
)

// list is the content of the file.
type list struct {
	mark Mark
	next uint64 // no run has had this number or a higher one
	runs []runInfo
}

func (l *list) encode() []byte {
	b := append([]byte(listMagic), 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, l.mark.Revision)
	b = append(b, l.mark.Digest[:]...)
	b = binary.BigEndian.AppendUint64(b, l.next)
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.runs)))
	for _, r := range l.runs {
		b = binary.BigEndian.AppendUint64(b, r.number)
		b = binary.BigEndian.AppendUint64(b, r.keys)
		b = binary.BigEndian.AppendUint64(b, uint64(r.size))
		b = binary.BigEndian.AppendUint32(b, r.sum)
	}
	binary.BigEndian.PutUint32(b[len(listMagic):], uint32(len(b)-len(listMagic)-4))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeList is the inverse of encode. On an error, at is the offset of the damage.
func decodeList(b []byte) (l list, at int64, err error) {
	head := len(listMagic) + 4
	switch {
	case len(b) < head+listFixedBytes+4:
		return l, int64(len(b)), errors.New("it ends too early")
	case string(b[:len(listMagic)]) != listMagic:
		return l, 0, errors.New("it does not begin like a list of runs")
	case uint64(binary.BigEndian.Uint32(b[len(listMagic):])) != uint64(len(b)-head-4):
		return l, int64(len(listMagic)), fmt.Errorf("it has %d bytes, and says another number", len(b))
	}
	sum := crc32.Checksum(b[:len(b)-4], castagnoli)
	if want := binary.BigEndian.Uint32(b[len(b)-4:]); sum != want {
		return l, int64(len(b) - 4), fmt.Errorf("its checksum is %08x, its bytes have %08x", want, sum)
	}
	b = b[head : len(b)-4]
	u64 := func() (v uint64) { v, b = binary.BigEndian.Uint64(b), b[8:]; return v }
	u32 := func() (v uint32) { v, b = binary.BigEndian.Uint32(b), b[4:]; return v }
	l.mark.Revision = u64()
	b = b[copy(l.mark.Digest[:], b):]
	l.next = u64()
	n := u32()
	at = int64(head + listFixedBytes)
	if uint64(len(b)) != uint64(n)*listRunBytes {
		return l, at, fmt.Errorf("it does not have %d runs", n)
	}
	seen := make(map[uint64]bool, n)
	for range n {
		r := runInfo{number: u64(), keys: u64(), size: int64(u64()), sum: u32()}
		if r.number >= l.next || seen[r.number] || r.size < 0 {
			return l, at, fmt.Errorf("it cannot have run %d", r.number)
		}
		seen[r.number] = true
		l.runs = append(l.runs, r)
		at += listRunBytes
	}
	return l, 0, nil
}

// readList reads the list; it is empty if there is no file.
func readList(files Files) (l list, err error) {
	f, err := files.Open(listName)
	if errors.Is(err, fs.ErrNotExist) {
		return list{next: 1}, nil
	}
	if err != nil {
		return l, fmt.Errorf("read the list of runs: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return l, fmt.Errorf("read the list of runs: %w", err)
	}
	if size > listBytesMax {
		return l, &CorruptError{File: files.Path(listName), Offset: listBytesMax, Detail: fmt.Sprintf("it has %d bytes", size)}
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) && !errors.Is(err, io.EOF) {
		return l, fmt.Errorf("read the list of runs: %w", err)
	}
	l, at, err := decodeList(b)
	if err != nil {
		return l, &CorruptError{File: files.Path(listName), Offset: at, Detail: err.Error()}
	}
	return l, nil
}

// writeList replaces the list durably. On an error with replaced false the old list is in
// place; with replaced true it may be either.
func writeList(files Files, l *list) (replaced bool, err error) {
	f, err := files.Create(listTemporary)
	if err != nil {
		return false, writefault.Mark(err)
	}
	_, err = f.Write(l.encode())
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = files.Remove(listTemporary)
		return false, writefault.Mark(err)
	}
	if err := files.Rename(listTemporary, listName); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return false, err // and nothing was renamed
		}
		return true, writefault.Mark(err)
	}
	return true, writefault.Mark(files.Sync())
}

// otherFiles returns the runs and leftovers that a list does not name, and a number for the
// next run that none of them has.
func otherFiles(files Files, l *list) (others []string, next uint64, err error) {
	names, err := files.List()
	if err != nil {
		return nil, 0, fmt.Errorf("look for what is left of the index: %w", err)
	}
	keep := map[string]bool{}
	for _, r := range l.runs {
		keep[runName(r.number)] = true
	}
	next = l.next
	for _, name := range names {
		number, run := strings.CutSuffix(name, runSuffix)
		if keep[name] || !run && name != listTemporary {
			continue
		}
		others = append(others, name)
		if n, err := strconv.ParseUint(number, 10, 63); err == nil {
			next = max(next, n+1)
		}
	}
	return others, next, nil
}
