package keyruns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
)

// ErrCrashed is the error of a MemFiles after a crash.
var ErrCrashed = errors.New("the files crashed")

// Op is a kind of call of a Files or a File.
type Op string

// The calls that a MemFiles counts: reads, and everything that changes something.
const (
	OpMake    Op = "mkdir"
	OpCreate  Op = "open"
	OpOpen    Op = "openread"
	OpRename  Op = "rename"
	OpRemove  Op = "remove"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpSyncDir Op = "syncdir"
	OpRead    Op = "read"
)

// Call is a call that a MemFiles is about to make.
type Call struct {
	N    int // counted from 1 since the files were made or opened again, without reads
	Op   Op
	Name string // "" for the directory
}

// Fault says how a call goes. With the zero Fault it succeeds.
type Fault struct {
	Err  error // the call fails with an *fs.PathError of this; a write has written half
	Done bool  // the call takes effect all the same
	// Crash ends the files before the call, or after it if Done is set.
	Crash bool
}

// MemFiles is a Files in memory with a crash model: Reopen keeps what was synced, and any part
// of the rest or nothing. It is for tests and simulation.
type MemFiles struct {
	mu      sync.Mutex
	hook    func(Call) Fault
	n       int
	crashed bool
	names   map[string]*memInode
	durable map[string]*memInode
	pending []memChange // of names, since the last Sync
}

// memInode holds the bytes of a file. Those up to synced survive a crash.
type memInode struct {
	data   []byte
	synced int
}

// memChange is how one call changes the names; nil removes a name.
type memChange map[string]*memInode

// NewMemFiles returns an empty MemFiles whose directory does not exist yet.
func NewMemFiles() *MemFiles {
	return &MemFiles{names: map[string]*memInode{}, durable: map[string]*memInode{}}
}

// OnCall makes hook decide every later call. It runs on the calling goroutine and may block
// it.
func (m *MemFiles) OnCall(hook func(Call) Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

// Crash ends the files: every later call returns ErrCrashed.
func (m *MemFiles) Crash() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = true
}

// Reopen ends the files like Crash, and returns new ones with what survived: everything synced
// and, with a seed other than zero, a part of the rest that the seed chooses. Each change of
// names survives or not, independently of those before it. Of unsynced bytes a part survives,
// and the others may be replaced.
func (m *MemFiles) Reopen(seed uint64) *MemFiles {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = true
	return m.survivors(seed)
}

// Copy returns independent files with the content of Reopen(0).
func (m *MemFiles) Copy() *MemFiles {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.survivors(0)
}

func (m *MemFiles) survivors(seed uint64) *MemFiles {
	r := rand.New(rand.NewPCG(seed, 1))
	names := maps.Clone(m.durable)
	for _, change := range m.pending {
		if seed != 0 && r.IntN(2) == 0 {
			change.apply(names)
		}
	}
	c := NewMemFiles()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		old := names[name]
		data := bytes.Clone(old.data[:old.synced])
		if rest := old.data[old.synced:]; seed != 0 && len(rest) > 0 {
			rest = bytes.Clone(rest[:r.IntN(len(rest)+1)])
			if len(rest) > 0 && r.IntN(2) == 0 { // its length survived, its bytes did not
				clear(rest[r.IntN(len(rest)):])
			}
			data = append(data, rest...)
		}
		file := &memInode{data: data, synced: len(data)}
		c.names[name], c.durable[name] = file, file
	}
	return c
}

// Damage flips one bit of one file, as a lying disk would; pick chooses a number below its
// argument. It returns where, and false if there is no byte.
func (m *MemFiles) Damage(pick func(n int) int) (name string, offset int64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.names)) {
		if len(m.names[name].data) > 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", 0, false
	}
	name = names[pick(len(names))]
	bit := pick(8 * len(m.names[name].data))
	m.flip(name, bit)
	return name, int64(bit / 8), true
}

// flip flips a bit of a file, also for those who have it open.
func (m *MemFiles) flip(name string, bit int) {
	file := m.names[name]
	file.data = bytes.Clone(file.data)
	file.data[bit/8] ^= 1 << (bit % 8)
}

func (c memChange) apply(names map[string]*memInode) {
	for name, file := range c {
		if file == nil {
			delete(names, name)
		} else {
			names[name] = file
		}
	}
}

// call makes one call: do(false), or half of it after a fault.
func (m *MemFiles) call(op Op, name string, do func(half bool) error) error {
	m.mu.Lock()
	call := Call{Op: op, Name: name}
	if op != OpRead && op != OpOpen {
		m.n++
	}
	call.N = m.n
	hook, crashed := m.hook, m.crashed
	m.mu.Unlock()
	if crashed {
		return ErrCrashed
	}
	var fault Fault
	if hook != nil {
		fault = hook(call)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.crashed {
		return ErrCrashed
	}
	failed := fault.Err != nil || fault.Crash
	var err error
	if !failed || fault.Done {
		err = do(false)
	} else if op == OpWrite {
		err = do(true)
	}
	if fault.Crash {
		m.crashed = true
		return ErrCrashed
	}
	if fault.Err != nil {
		if op == OpSyncDir {
			op = OpSync
		}
		return &fs.PathError{Op: string(op), Path: m.Path(name), Err: fault.Err}
	}
	return err
}

// change changes names; the change survives once they are synced. m.mu is held.
func (m *MemFiles) change(c memChange) {
	c.apply(m.names)
	m.pending = append(m.pending, c)
}

// Path implements Files.
func (m *MemFiles) Path(name string) string { return filepath.Join("index", name) }

// Make implements Files.
func (m *MemFiles) Make() error { return m.call(OpMake, "", func(bool) error { return nil }) }

// Create implements Files.
func (m *MemFiles) Create(name string) (File, error) {
	f := &memFile{files: m, name: name, inode: &memInode{}}
	return f, m.call(OpCreate, name, func(bool) error {
		m.change(memChange{name: f.inode})
		return nil
	})
}

// Open implements Files.
func (m *MemFiles) Open(name string) (File, error) {
	f := &memFile{files: m, name: name}
	if err := m.call(OpOpen, name, func(bool) error {
		if f.inode = m.names[name]; f.inode == nil {
			return &fs.PathError{Op: "open", Path: m.Path(name), Err: fs.ErrNotExist}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return f, nil
}

// Rename implements Files.
func (m *MemFiles) Rename(from, to string) error {
	return m.call(OpRename, from, func(bool) error {
		file := m.names[from]
		if file == nil {
			return &fs.PathError{Op: "rename", Path: m.Path(from), Err: fs.ErrNotExist}
		}
		m.change(memChange{to: file, from: nil})
		return nil
	})
}

// Remove implements Files.
func (m *MemFiles) Remove(name string) error {
	return m.call(OpRemove, name, func(bool) error {
		if m.names[name] == nil {
			return &fs.PathError{Op: "remove", Path: m.Path(name), Err: fs.ErrNotExist}
		}
		m.change(memChange{name: nil})
		return nil
	})
}

// List implements Files.
func (m *MemFiles) List() (names []string, err error) {
	err = m.call(OpRead, "", func(bool) error {
		names = slices.Sorted(maps.Keys(m.names))
		return nil
	})
	return names, err
}

// Sync implements Files.
func (m *MemFiles) Sync() error {
	return m.call(OpSyncDir, "", func(bool) error {
		m.durable = maps.Clone(m.names)
		m.pending = nil
		return nil
	})
}

// memFile is an open file.
type memFile struct {
	files  *MemFiles
	name   string
	inode  *memInode
	closed bool // guarded by files.mu
}

func (f *memFile) call(op Op, do func(half bool) error) error {
	return f.files.call(op, f.name, func(half bool) error {
		if f.closed {
			return fmt.Errorf("%s %s: %w", op, f.name, fs.ErrClosed)
		}
		return do(half)
	})
}

// ReadAt implements File.
func (f *memFile) ReadAt(b []byte, at int64) (n int, err error) {
	err = f.call(OpRead, func(bool) error {
		if at > int64(len(f.inode.data)) {
			return io.EOF
		}
		if n = copy(b, f.inode.data[at:]); n < len(b) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

// Write implements File.
func (f *memFile) Write(b []byte) (n int, err error) {
	err = f.call(OpWrite, func(half bool) error {
		if n = len(b); half {
			n /= 2
		}
		f.inode.data = append(f.inode.data, b[:n]...)
		return nil
	})
	return n, err
}

// Size implements File.
func (f *memFile) Size() (size int64, err error) {
	err = f.call(OpRead, func(bool) error {
		size = int64(len(f.inode.data))
		return nil
	})
	return size, err
}

// Sync implements File.
func (f *memFile) Sync() error {
	return f.call(OpSync, func(bool) error {
		f.inode.synced = len(f.inode.data)
		return nil
	})
}

// Close implements File.
func (f *memFile) Close() error {
	f.files.mu.Lock()
	defer f.files.mu.Unlock()
	f.closed = true
	return nil
}
