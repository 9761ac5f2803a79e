package bodies

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// A segment is a header and frames:
//
//	segment  "oncekv values 1\n" 16 | number 4 | CRC-32C of that
//	frame    "body" 4 | format 1 | 0 0 0 | size 4 | SHA-256 32 | CRC-32C of each block | CRC-32C of the frame's header
//	         and of where it is | the body
//
// Numbers are big endian.
const (
	segmentSuffix      = ".values"
	segmentMagic       = "oncekv values 1\n"
	segmentHeaderBytes = len(segmentMagic) + 4 + 4
	frameMagic         = "body"
	frameFormat        = 1
	frameFixedBytes    = 4 + 4 + 4 + 32
	frameHeaderMax     = frameFixedBytes + 4*(MaxBytes/BlockBytes) + 4
	blockOfFileSystem  = 4096
	writeOutBytes      = 1 << 20 // that wait in memory, about, before the disk is asked to write them
	aheadBytes         = 8 << 20 // of room that is taken at a time, see takeRoom
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func blocks(size int) int { return (size + BlockBytes - 1) / BlockBytes }

func headerBytes(size int) int { return frameFixedBytes + 4*blocks(size) + 4 }

// frameBytes is what a body of some size takes in a segment.
func frameBytes(size int) int64 { return int64(headerBytes(size) + size) }

// segment is one file.
type segment struct {
	path    string
	number  uint32
	files   *openFiles
	opened               // guarded by files.mu
	length  atomic.Int64 // of whole frames
	synced  atomic.Int64 // durable up to there
	sent    int64        // the disk was asked to write what is before; guarded by Store.appending
	ahead   atomic.Int64 // the file system keeps room up to there; written with Store.appending held
	looked  int64        // length at the last look of trim; guarded by Store.appending
	tail    bool         // something follows the last whole frame; guarded by Store.appending
	named   bool         // its name is durable; guarded by Store.syncing
	tidy    bool         // what is dead was given back, or will be by this process; guarded by Store.reclaiming
	stuck   bool         // damaged: it is not copied; guarded by Store.reclaiming
	figures              // guarded by Store.mu
}

func (g *segment) size() int64 { return g.length.Load() }

// damage says what is wrong with a segment, and what to do.
func (g *segment) damage(offset int64, detail string) error {
	return segmentDamage(g.path, offset, detail)
}

func segmentDamage(path string, offset int64, detail string) error {
	return &DamageError{File: path, Offset: offset, Detail: detail + "; replace this node: remove the member, empty the data directory, join again"}
}

func missingSegment(dir string, number uint32) error {
	return segmentDamage(segmentPath(dir, number), -1, "it is missing, and had bodies")
}

func segmentPath(dir string, number uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%08d%s", number, segmentSuffix))
}

func segmentHeader(number uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte(segmentMagic), number)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func createSegment(dir string, number uint32, files *openFiles) (*segment, error) {
	path := segmentPath(dir, number)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(segmentHeader(number)); err != nil {
		return nil, errors.Join(writefault.Mark(err), f.Close(), os.Remove(path))
	}
	g := &segment{path: path, number: number, files: files, tidy: true}
	g.length.Store(int64(segmentHeaderBytes))
	files.add(g, f)
	return g, nil
}

// foundSegment is one that was there at the start.
func foundSegment(path string, files *openFiles) (*segment, error) {
	var number uint32
	if _, err := fmt.Sscanf(strings.TrimSuffix(filepath.Base(path), segmentSuffix), "%d", &number); err != nil {
		return nil, fmt.Errorf("%s is not the name of a segment", path)
	}
	return &segment{path: path, number: number, files: files, named: true}, nil
}

// readAt is that of the file.
func (g *segment) readAt(b []byte, off int64) (n int, err error) {
	err = g.use(func(file *os.File) error {
		n, err = file.ReadAt(b, off)
		return err
	})
	return n, err
}

// checkHeader checks what the file begins with.
func (g *segment) checkHeader() error {
	b := make([]byte, segmentHeaderBytes)
	if _, err := g.readAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	if !bytes.Equal(b, segmentHeader(g.number)) {
		return g.damage(0, "its first bytes are not those of a segment")
	}
	return nil
}

// append writes a frame at the end. sums are those of the blocks of data. When there is
// no room it leaves the file as it was; after any other failure nobody knows what the
// file has.
func (g *segment) append(d Digest, data, sums []byte) (place, error) {
	at := place{segment: g.number, offset: g.size(), size: len(data)}
	return at, g.use(func(file *os.File) error {
		if g.tail {
			if err := file.Truncate(at.offset); err != nil {
				return writefault.Mark(err)
			}
			g.tail = false
		}
		g.takeRoom(file, at.offset+frameBytes(len(data)))
		header := g.frameHeader(d, len(data), sums, at.offset)
		_, err := file.WriteAt(header, at.offset)
		if err == nil {
			_, err = file.WriteAt(data, at.offset+int64(len(header)))
		}
		if err = writefault.Mark(err); err != nil {
			if !errors.Is(err, writefault.Err) {
				err = errors.Join(err, writefault.Mark(file.Truncate(at.offset)))
				g.ahead.Store(0)
			}
			return err
		}
		g.length.Store(at.offset + frameBytes(len(data)))
		if g.size()-g.sent >= writeOutBytes {
			writeOut(file, g.sent, g.size()-g.sent)
			g.sent = g.size()
		}
		return nil
	})
}

// takeRoom has the file system keep room behind the end, so that it finds none for what
// is written when that goes to the disk. Where ext4 does, an fsync of any other file, the
// log's say, waits until those bytes are written: with three nodes that append 1 MiB at a
// time on a loaded disk, p99 of such an fsync was 100 to 210 ms with room and 190 to 540
// without, and the disk wrote 180 to 290 MB/s and 130 to 180. What is not used trim gives
// back.
func (g *segment) takeRoom(file *os.File, end int64) {
	ahead := g.ahead.Load()
	if end <= ahead {
		return
	}
	from := max(ahead, g.size())
	if keepRoom(file, from, end+aheadBytes-from) == nil {
		g.ahead.Store(end + aheadBytes)
	}
}

// trim gives back the room behind the end, if nothing was appended since the last call,
// or with always.
func (g *segment) trim(always bool) error {
	end := g.size()
	still := g.looked == end
	g.looked = end
	if g.ahead.Load() <= end || !still && !always {
		return nil
	}
	return g.use(func(file *os.File) error {
		if err := file.Truncate(end); err != nil {
			return writefault.Mark(err)
		}
		g.ahead.Store(0)
		g.tail = false
		return nil
	})
}

// blockSums returns the checksums of a body's blocks.
func blockSums(data []byte) []byte {
	b := make([]byte, 0, 4*blocks(len(data)))
	for len(data) > 0 {
		n := min(BlockBytes, len(data))
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(data[:n], castagnoli))
		data = data[n:]
	}
	return b
}

func (g *segment) frameHeader(d Digest, size int, sums []byte, offset int64) []byte {
	b := make([]byte, 0, frameHeaderMax)
	b = append(append(b, frameMagic...), frameFormat, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(append(b, d[:]...), sums...)
	return binary.BigEndian.AppendUint32(b, g.headerSum(b, offset))
}

func (g *segment) headerSum(b []byte, offset int64) uint32 {
	var where [12]byte
	binary.BigEndian.PutUint32(where[:], g.number)
	binary.BigEndian.PutUint64(where[4:], uint64(offset))
	return crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, where[:])
}

// readHeader reads and checks the header of the frame at an offset.
func (g *segment) readHeader(offset int64) (d Digest, size int, sums []byte, err error) {
	var b [frameHeaderMax]byte
	n, err := g.readAt(b[:], offset)
	if err != nil && err != io.EOF {
		return d, 0, nil, err
	}
	damaged := func(what string) error { return g.damage(offset, what) }
	if n < frameFixedBytes || string(b[:4]) != frameMagic {
		return d, 0, nil, damaged("no body begins here")
	}
	size = int(binary.BigEndian.Uint32(b[8:]))
	if size == 0 || size > MaxBytes || n < headerBytes(size) {
		return d, 0, nil, damaged("a body that begins here has no possible size")
	}
	end := headerBytes(size) - 4
	if binary.BigEndian.Uint32(b[end:]) != g.headerSum(b[:end], offset) {
		return d, 0, nil, damaged("what is said of the body that begins here does not have its checksum")
	}
	return Digest(b[12:44]), size, b[frameFixedBytes:end], nil
}

// read appends n bytes from off on to buf, checked.
func (g *segment) read(d Digest, at place, off, n int, buf []byte) ([]byte, error) {
	got, size, sums, err := g.readHeader(at.offset)
	if err != nil {
		return buf, err
	}
	if got != d || size != at.size {
		return buf, g.damage(at.offset, fmt.Sprintf("body %s is here in place of %s", got, d))
	}
	start := len(buf)
	if cap(buf)-start < n {
		buf = append(make([]byte, 0, start+n), buf...)
	}
	buf = buf[:start+n]
	dataAt := at.offset + int64(headerBytes(size)) + int64(off)
	if _, err := g.readAt(buf[start:], dataAt); err != nil {
		if err == io.EOF {
			err = g.damage(dataAt, "the file ends inside a body")
		}
		return buf[:start], err
	}
	for p, block := buf[start:], off/BlockBytes; len(p) > 0; block++ {
		k := min(BlockBytes, len(p))
		if crc32.Checksum(p[:k], castagnoli) != binary.BigEndian.Uint32(sums[4*block:]) {
			return buf[:start], g.damage(at.offset+int64(headerBytes(size)+block*BlockBytes), fmt.Sprintf("block %d of body %s does not have its checksum", block, d))
		}
		p = p[k:]
	}
	return buf, nil
}

// punch gives back the blocks of the file system that lie in a body, and returns how
// many bytes those are. The header stays, by which the next frame is found.
func (g *segment) punch(at place) (int64, error) {
	from, n := holeIn(at)
	if n == 0 {
		return 0, nil
	}
	err := g.use(func(file *os.File) error { return punchHole(file, from, n) })
	if errors.Is(err, errors.ErrUnsupported) {
		return 0, nil
	}
	return n, err
}

// walk calls f for each frame, by the headers. Behind something that is no frame it looks
// for the next header, and is not sure any more: bytes of somebody's body may look like
// one. It goes past such a frame only if f knows it.
func (g *segment) walk(f func(d Digest, at place, sure bool) (known bool, err error)) error {
	sure := true
	for at := int64(segmentHeaderBytes); at < g.size(); {
		d, size, _, err := g.readHeader(at)
		if err == nil {
			known, err := f(d, place{g.number, at, size}, sure)
			if err != nil {
				return err
			}
			if known || sure {
				at += frameBytes(size)
				continue
			}
		} else if !errors.As(err, new(*DamageError)) {
			return err
		}
		sure = false
		if at, err = g.nextFrame(at+1, g.size()); err != nil || at < 0 {
			return err
		}
	}
	return nil
}

// holeIn returns the blocks of the file system that lie in a body as a whole.
func holeIn(at place) (from, n int64) {
	from = at.offset + int64(headerBytes(at.size))
	to := (from + int64(at.size)) / blockOfFileSystem * blockOfFileSystem
	from = (from + blockOfFileSystem - 1) / blockOfFileSystem * blockOfFileSystem
	return from, max(0, to-from)
}

// place is where a frame is.
type place struct {
	segment uint32
	offset  int64
	size    int // of the body
}

// figures are what the table knows of a segment.
type figures struct {
	covered int64 // the frames before are in the table, unless they were forgotten
	bodies  int64 // rows that say that a body is in the segment
	bytes   int64 // of their frames
	counted int64 // of the frames of those that records refer to
}

// nextFrame returns where the next header is whose checksum fits, -1 when there is none.
func (g *segment) nextFrame(from, length int64) (int64, error) {
	looks := append([]byte(frameMagic), frameFormat, 0, 0, 0)
	buf := make([]byte, 1<<20)
	for from < length {
		n, err := g.readAt(buf[:min(int64(len(buf)), length-from)], from)
		if err != nil && err != io.EOF {
			return 0, err
		}
		for i := 0; ; i++ {
			k := bytes.Index(buf[i:n], looks)
			if k < 0 {
				break
			}
			i += k
			_, size, _, err := g.readHeader(from + int64(i))
			if err == nil && from+int64(i)+frameBytes(size) <= length {
				return from + int64(i), nil
			}
			if err != nil && !errors.As(err, new(*DamageError)) {
				return 0, err
			}
		}
		if n < len(buf) {
			break
		}
		from += int64(n - len(looks) + 1)
	}
	return -1, nil
}
