package faults

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal/walpb"
)

// frame is one record of a WAL segment on disk. The format is etcd's; these tests read it with
// their own code, so that the damage does not depend on the code that has to notice it.
type frame struct {
	file     string
	off, end int64 // header and record, without padding
	kind     int64
	crc      uint32
	data     []byte
}

const (
	frameHeaderBytes = 8
	entryRecord      = 2
)

// walFrames reads all records of a WAL in order.
func walFrames(dir string) ([]frame, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []frame
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, framesOf(name, b)...)
	}
	return all, nil
}

// framesOf reads the records of one segment. It ends at what it cannot read: kill -9 may have
// cut a write off.
func framesOf(name string, b []byte) (all []frame) {
	for off := int64(0); off+frameHeaderBytes <= int64(len(b)); {
		size := int64(binary.LittleEndian.Uint64(b[off:]) & (1<<56 - 1))
		if size == 0 {
			break
		}
		begin := off + frameHeaderBytes
		if begin+size > int64(len(b)) {
			break
		}
		var r walpb.Record
		if err := r.Unmarshal(b[begin : begin+size]); err != nil {
			break
		}
		all = append(all, frame{file: name, off: off, end: begin + size, kind: r.Type, crc: r.Crc, data: r.Data})
		off = begin + (size+7)/8*8
	}
	return all
}

// syncedFrames returns the records up to the last entry: later ones may be a commit index,
// which is written without a flush.
func syncedFrames(all []frame) []frame {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].kind == entryRecord {
			return all[:i+1]
		}
	}
	return nil
}

// nextFrame returns the record that a node would write next: an entry with so many bytes of
// data.
func nextFrame(all []frame, bytes int) ([]byte, error) {
	last := all[len(all)-1]
	var before raftpb.Entry
	entries := syncedFrames(all)
	if err := before.Unmarshal(entries[len(entries)-1].data); err != nil {
		return nil, err
	}
	e := raftpb.Entry{Index: before.Index + 1, Term: before.Term, Data: slices.Repeat([]byte("torn"), bytes/4)}
	data, err := e.Marshal()
	if err != nil {
		return nil, err
	}
	r := walpb.Record{Type: entryRecord, Crc: crc32.Update(last.crc, crc32.MakeTable(crc32.Castagnoli), data), Data: data}
	body, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	header := uint64(len(body))
	if pad := (8 - len(body)%8) % 8; pad != 0 {
		header |= uint64(0x80|pad) << 56
		body = append(body, make([]byte, pad)...)
	}
	return append(binary.LittleEndian.AppendUint64(nil, header), body...), nil
}

// zero writes zeros to a file from off to its end.
func zero(path string, off int64) error {
	about, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(os.Truncate(path, off), os.Truncate(path, about.Size()))
}

// flip changes one bit of a file.
func flip(path string, off int64, bit uint) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return err
	}
	b[0] ^= 1 << (bit % 8)
	if _, err := f.WriteAt(b[:], off); err != nil {
		return err
	}
	return f.Close()
}

// overwrite overwrites bytes of a file.
func overwrite(path string, off int64, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		return err
	}
	return f.Close()
}
