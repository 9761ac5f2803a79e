package walscan

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// segment is one segment file by its name.
type segment struct {
	path       string
	seq, index uint64
}

// segments lists the segment files in order. Files that do not end in .wal are
// none of ours: unfinished segments (.tmp) and copies of torn ones (.broken).
func segments(dir string) ([]segment, error) {
	files, err := os.ReadDir(dir) // sorted by name, hence by sequence
	if err != nil {
		return nil, fmt.Errorf("list the WAL segments: %w", err)
	}
	var segs []segment
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".wal") {
			continue
		}
		s := segment{path: filepath.Join(dir, f.Name())}
		if _, err := fmt.Sscanf(f.Name(), "%016x-%016x.wal", &s.seq, &s.index); err != nil || f.Name() != s.name() {
			return nil, &DamageError{File: s.path, Detail: "its name is not that of a WAL segment (sequence-index.wal, 16 hex digits each)"}
		}
		if n := len(segs); n > 0 && segs[n-1].seq+1 != s.seq {
			return nil, &DamageError{File: s.path, Detail: fmt.Sprintf("segment %d follows segment %d, so segments are missing before it", s.seq, segs[n-1].seq)}
		}
		segs = append(segs, s)
	}
	if len(segs) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoSegments, dir)
	}
	return segs, nil
}

func (s segment) name() string { return fmt.Sprintf("%016x-%016x.wal", s.seq, s.index) }
