package integration

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// stream is a generated value of any size. It is generated while it is read and is never in
// memory as a whole. Its bytes do not compress, and no piece occurs twice.
type stream struct {
	seed   [32]byte
	size   int64
	at     int64
	block  [streamBlock]byte
	loaded int64 // number of the block, from 1
}

const streamBlock = 64 << 10

// largePatience bounds one transfer: of 1 GiB, which goes to the disk six times.
const largePatience = 15 * time.Minute

func newStream(seed string, size int64) *stream {
	return &stream{seed: sha256.Sum256([]byte(seed)), size: size}
}

func (s *stream) Read(p []byte) (int, error) {
	if s.at >= s.size {
		return 0, io.EOF
	}
	number, offset := s.at/streamBlock+1, s.at%streamBlock
	if s.loaded != number {
		seed := s.seed
		binary.LittleEndian.PutUint64(seed[:], uint64(number))
		rand.NewChaCha8(seed).Read(s.block[:]) // never fails
		s.loaded = number
	}
	n := copy(p, s.block[offset:min(streamBlock, offset+s.size-s.at)])
	s.at += int64(n)
	return n, nil
}

func (s *stream) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 {
		return 0, errors.New("before the beginning")
	}
	s.at = offset
	return offset, nil
}

// sha256 hashes a part of the stream.
func (s *stream) sha256(t *testing.T, from, length int64) string {
	t.Helper()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(s, from, length)); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// ReadAt is for one reader at a time.
func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	if _, err := s.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(s, p)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

// readSum hashes a node's answer to a GET.
func readSum(cl *client.Client, key string, opts client.GetOptions) (sum string, size int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), largePatience)
	defer cancel()
	o, err := cl.Get(ctx, key, opts)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	size, err = io.Copy(h, o.Body)
	return hex.EncodeToString(h.Sum(nil)), size, errors.Join(err, o.Body.Close())
}

// partOf hashes a range of a value.
func partOf(n *clustertest.Process, key string, from, length int64) (string, error) {
	req, err := http.NewRequest(http.MethodGet, n.URL()+"/key/"+key, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+length-1))
	resp, err := (&http.Client{Timeout: clustertest.Patience}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent || resp.ContentLength != length {
		return "", fmt.Errorf("%s, %d bytes", resp.Status, resp.ContentLength)
	}
	sum := sha256.New()
	_, err = io.Copy(sum, resp.Body)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// withSizes runs a case with 64 MiB, and in full mode with 1 GiB. The bounds are the same:
// memory does not depend on the size of the value.
func withSizes(t *testing.T, run func(t *testing.T, bin string, size int64)) {
	bin, err := clustertest.PlainBinary(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("64MiB", func(t *testing.T) { run(t, bin, 64<<20) })
	t.Run("1GiB", func(t *testing.T) {
		full(t, "writes some 7 GiB to disk")
		run(t, bin, 1<<30)
	})
}

// Invariants 3 and 11: a large value streams through every kind of node.
func TestLarge_Value(t *testing.T) { withSizes(t, largeValue) }

func largeValue(t *testing.T, bin string, size int64) {
	const anonymousMax = 384 << 20
	p := clustertest.NewProcesses(t, bin, 3, 1)
	p.StartAll()
	leader, cache := p.Leader(), p.Caches[0]
	follower := p.DBs[0]
	if follower == leader {
		follower = p.DBs[1]
	}
	t.Logf("%s leads, %s takes the put", leader.Name, follower.Name)
	memory := clustertest.WatchMemory(t, p.All()...)
	value := newStream(t.Name(), size)
	want := value.sha256(t, 0, size)

	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), largePatience)
	defer cancel()
	answer, err := clustertest.Client(t, follower.URL()).Put(ctx, "large", newStream(t.Name(), size), client.PutOptions{})
	if err != nil || answer.SHA256 != want || answer.Size != size || !answer.Created {
		t.Fatalf("put: %+v, %v; want it created, %d bytes with digest %s", answer, err, size, want)
	}
	t.Logf("put %d MiB through a follower in %.1f s", size>>20, time.Since(start).Seconds())

	start = time.Now()
	cached := clustertest.Client(t, cache.URL())
	if sum, n, err := readSum(cached, "large", client.GetOptions{}); err != nil || sum != want || n != size {
		t.Fatalf("from the cache node: %d bytes with digest %s, %v; want %d with %s", n, sum, err, size, want)
	}
	t.Logf("read it from a cache node in %.1f s", time.Since(start).Seconds())

	const length = 3<<20 + 1 // over the edges of chunks
	from := size/2 - 12345
	part, err := partOf(cache, "large", from, length)
	if wantPart := value.sha256(t, from, length); err != nil || part != wantPart {
		t.Errorf("%d bytes at %d: digest %s, %v; want %s", length, from, part, err, wantPart)
	}
	clustertest.SameHistory(t, p.DBs...)
	memory.Bound(anonymousMax, p.All()...)
}

// Invariant 11: an import does not stay in memory, with three database nodes and three cache
// nodes in one process.
func TestLarge_Import(t *testing.T) { withSizes(t, largeImport) }

func largeImport(t *testing.T, bin string, size int64) {
	const (
		anonymousMax = 896 << 20 // six nodes
		importerMax  = 128 << 20
	)
	dir := t.TempDir()
	files := writeValues(t, dir, size)
	dev, urls := newDev(t, bin)
	dev.Start()
	clustertest.Eventually(t, "the local cluster is ready", func() error {
		if !dev.Running() || strings.Contains(dev.Log(), "curl -XGET") {
			return nil
		}
		return errors.New(dev.Log())
	})
	dev.WaitReady()
	// Not the import's rusage: its maximum includes this process, from which it was forked.
	importer := clustertest.NewProcess(t, bin, "import", "", importArgs(dir, "in/", urls)...)
	importer.Start()
	memory := clustertest.WatchMemory(t, dev, importer)
	code := importer.WaitFor(largePatience)
	var s importSummary
	if err := json.Unmarshal([]byte(importer.Log()), &s); err != nil || code != 0 || s.Created.Files != len(files) || s.Created.Bytes != size {
		t.Fatalf("import: exit code %d, %+v, %v; want %d files of %d bytes created; it said:\n%s", code, s, err, len(files), size, importer.Log())
	}
	t.Logf("imported %d files, %d MiB, in %.1f s", len(files), size>>20, s.Seconds)
	cl := clustertest.Client(t, urls...)
	for name, want := range files {
		if sum, n, err := readSum(cl, "in/"+name, client.GetOptions{}); err != nil || sum != want {
			t.Errorf("%s: %d bytes with digest %s, %v; want %s", name, n, sum, err, want)
		}
	}
	memory.Bound(anonymousMax, dev)
	memory.Bound(importerMax, importer)
}

// writeValues makes files of 64 KiB to 4 MiB, total bytes together, and returns their digests
// by name.
func writeValues(t *testing.T, dir string, total int64) map[string]string {
	t.Helper()
	const smallest, largest = 64 << 10, 4 << 20
	sizes := rand.New(rand.NewPCG(1, 2))
	files := map[string]string{}
	for left := total; left > 0; {
		size := left
		if left > largest {
			size = min(smallest+sizes.Int64N(largest-smallest+1), left-smallest)
		}
		name := fmt.Sprintf("value-%d", len(files))
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		_, err = io.Copy(io.MultiWriter(f, sum), newStream(name, size))
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		files[name] = hex.EncodeToString(sum.Sum(nil))
		left -= size
	}
	return files
}

// newDev prepares the local cluster in one process, on free ports.
func newDev(t *testing.T, bin string) (dev *clustertest.Process, urls []string) {
	t.Helper()
	for range 100 {
		offset := 1100 + rand.IntN(180)*100 // all ports stay below those the kernel gives out
		var addrs []string
		for _, first := range []int{11000, 12530, 5551} {
			for i := range 3 {
				addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", first+offset+i))
			}
		}
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", 5546+offset)) // the admin's
		if portInUse(addrs...) != "" {
			continue
		}
		for _, addr := range addrs[:3] {
			urls = append(urls, "http://"+addr)
		}
		return clustertest.NewProcess(t, bin, "dev", addrs[0], "dev", "--data-dir", t.TempDir(), "--port-offset", fmt.Sprint(offset)), urls
	}
	t.Fatal("no free ports for the local cluster")
	return nil, nil
}

// portInUse returns the first address on which somebody listens, if any.
func portInUse(addrs ...string) string {
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return addr
		}
		ln.Close()
	}
	return ""
}
