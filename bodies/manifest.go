package bodies

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// The manifest says what the table on disk is, in one file that is replaced as a whole:
//
//	manifest  "oncekv bodies 1\n" 16 | length of what follows 4 | … | CRC-32C of all before
//	…         1 when the table is being made anew, else 0 | epoch 8 | mark: revision 8, head 32 | next run 4 | next segment 4 |
//	          runs 4, of each, the newest first: number 4 | epoch 8 | rows 8 | blocks 4 | checksum 4 |
//	          segments 4, of each: number 4 | covered 8 | bodies 8 | bytes 8 | counted 8
//
// Numbers are big endian.
const (
	manifestName       = "table"
	manifestMagic      = "oncekv bodies 1\n"
	manifestFixedBytes = 1 + 8 + 8 + 32 + 4 + 4 + 4 + 4
	manifestRunBytes   = 4 + 8 + 8 + 4 + 4
	manifestSegBytes   = 4 + 8 + 8 + 8 + 8
)

// manifest is its content. The figures and the mark are those of the rows in the runs.
type manifest struct {
	anew        bool // see Store.Counted
	epoch       uint64
	mark        Mark
	nextRun     uint32
	nextSegment uint32 // no segment had that number or one above it
	runs        []runInfo
	segments    []segmentInfo // by number
}

// segmentInfo is what the manifest says of a segment.
type segmentInfo struct {
	number uint32
	figures
}

func (m *manifest) encode() []byte {
	b := append([]byte(manifestMagic), 0, 0, 0, 0)
	u32 := func(v uint32) { b = binary.BigEndian.AppendUint32(b, v) }
	u64 := func(v uint64) { b = binary.BigEndian.AppendUint64(b, v) }
	if m.anew {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	u64(m.epoch)
	u64(m.mark.Revision)
	b = append(b, m.mark.Head[:]...)
	u32(m.nextRun)
	u32(m.nextSegment)
	u32(uint32(len(m.runs)))
	for _, r := range m.runs {
		u32(r.number)
		u64(r.epoch)
		u64(r.rows)
		u32(r.blocks)
		u32(r.sum)
	}
	u32(uint32(len(m.segments)))
	for _, g := range m.segments {
		u32(g.number)
		u64(uint64(g.covered))
		u64(uint64(g.bodies))
		u64(uint64(g.bytes))
		u64(uint64(g.counted))
	}
	binary.BigEndian.PutUint32(b[len(manifestMagic):], uint32(len(b)-len(manifestMagic)-4))
	u32(crc32.Checksum(b, castagnoli))
	return b
}

// decodeManifest is the inverse of encode; false: no encode wrote that.
func decodeManifest(b []byte) (m manifest, ok bool) {
	head := len(manifestMagic) + 4
	if len(b) < head+manifestFixedBytes+4 || string(b[:len(manifestMagic)]) != manifestMagic ||
		uint64(binary.BigEndian.Uint32(b[len(manifestMagic):])) != uint64(len(b)-head-4) ||
		binary.BigEndian.Uint32(b[len(b)-4:]) != crc32.Checksum(b[:len(b)-4], castagnoli) {
		return m, false
	}
	b = b[head : len(b)-4]
	u32 := func() (v uint32) { v, b = binary.BigEndian.Uint32(b), b[4:]; return v }
	u64 := func() (v uint64) { v, b = binary.BigEndian.Uint64(b), b[8:]; return v }
	if m.anew = b[0] == 1; b[0] > 1 {
		return m, false
	}
	b = b[1:]
	m.epoch = u64()
	m.mark.Revision = u64()
	b = b[copy(m.mark.Head[:], b):]
	m.nextRun = u32()
	m.nextSegment = u32()
	n := u32()
	if uint64(len(b)) < uint64(n)*manifestRunBytes+4 {
		return m, false
	}
	for range n {
		m.runs = append(m.runs, runInfo{number: u32(), epoch: u64(), rows: u64(), blocks: u32(), sum: u32()})
	}
	n = u32()
	if uint64(len(b)) != uint64(n)*manifestSegBytes {
		return m, false
	}
	for range n {
		m.segments = append(m.segments, segmentInfo{u32(), figures{int64(u64()), int64(u64()), int64(u64()), int64(u64())}})
	}
	return m, true
}

// readManifest reads the manifest in a directory; a *DamageError when it is damaged,
// fs.ErrNotExist when there is none.
func readManifest(dir string) (m manifest, err error) {
	path := filepath.Join(dir, manifestName)
	b, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	m, ok := decodeManifest(b)
	if !ok {
		return m, &DamageError{File: path, Offset: -1, Detail: "it does not have its checksum"}
	}
	if m.anew {
		return m, &DamageError{File: path, Offset: -1, Detail: "it was being rebuilt and was not completed"}
	}
	return m, nil
}

// writeManifest replaces the manifest, durably. An error that is writefault.Err leaves
// open which one is there; after any other the old one is.
func writeManifest(dir string, m *manifest, sync func(path string) error) error {
	path := filepath.Join(dir, manifestName)
	next := path + ".tmp"
	if err := os.WriteFile(next, m.encode(), 0o600); err != nil {
		_ = os.Remove(next)
		return writefault.Mark(err)
	}
	if err := sync(next); err != nil {
		return writefault.Mark(err)
	}
	if err := os.Rename(next, path); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return err // and nothing was renamed
		}
		return writefault.Mark(err)
	}
	return writefault.Mark(sync(dir))
}

// removeOthers removes the runs, and what else a flush or a merge left behind, that a
// manifest does not list.
func removeOthers(dir string, m *manifest) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"+runSuffix))
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, r := range m.runs {
		keep[runPath(dir, r.number)] = true
	}
	for _, path := range append(names, filepath.Join(dir, manifestName+".tmp")) {
		if keep[path] {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what is left of the table: %w", err)
		}
	}
	return nil
}
