package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// fixtureName makes TestFixture_Make make the fixtures of the current program.
var fixtureName = flag.String("fixture", "", "make the fixtures testdata/datadir/NAME-*.tar.gz of the program as it is now, and fail if they are there")

const fixtureDir = "../testdata/datadir"

// fixture is what must be read from a data directory of testdata/datadir.
type fixture struct {
	Level       uint64           `json:"level"` // level of the store; 0: from before the first release
	History     *api.History     `json:"history,omitempty"`
	Revision    uint64           `json:"revision"`
	Digest      string           `json:"digest"` // at Revision
	Checkpoints []api.Checkpoint `json:"checkpoints"`
	Keys        uint64           `json:"keys"`
	ValueBytes  int64            `json:"value_bytes"`
	OpenUploads int              `json:"open_uploads"`
	Unset       []string         `json:"unset"` // keys that are not set
	Runs        []fixtureRun     `json:"runs"`
	Records     []fixtureRecord  `json:"records"` // the others
}

// fixtureRecord is a line of GET /changes, unchanged, and the id of its put.
type fixtureRecord struct {
	PutID string          `json:"put_id,omitempty"`
	Line  json.RawMessage `json:"line"`
}

// fixtureRun is many puts of one kind, at consecutive revisions: Key and PutID with each
// number from 0, and the values in turn.
type fixtureRun struct {
	First  uint64   `json:"first"`
	Count  int      `json:"count"`
	Key    string   `json:"key"`
	PutID  string   `json:"put_id,omitempty"`
	Values []string `json:"values"`
}

func (r *fixtureRun) put(i int) fixturePut {
	p := fixturePut{key: fmt.Sprintf(r.Key, i), value: []byte(r.Values[i%len(r.Values)])}
	if r.PutID != "" {
		p.putID = fmt.Sprintf(r.PutID, i)
	}
	return p
}

func (r *fixtureRun) record(i int) api.Record {
	p := r.put(i)
	sum := sha256.Sum256(p.value)
	return api.Record{Key: p.key, Revision: r.First + uint64(i), Size: int64(len(p.value)), SHA256: hex.EncodeToString(sum[:]), ContentType: "application/octet-stream"}
}

// fixturePut is one put of a fixture.
type fixturePut struct {
	key, putID, contentType string
	meta                    map[string]string
	value                   []byte
}

// fixturePuts returns puts of all kinds. Their values compress well.
func fixturePuts() []fixturePut {
	long := bytes.Repeat([]byte("one record of many that are much alike\n"), 1<<20/39+1)
	puts := []fixturePut{
		{key: "empty"},
		{key: "small", value: []byte("a small value")},
		{key: "text", value: []byte("text"), contentType: "text/plain; charset=utf-8"},
		{key: "json", value: []byte(`{"a":1}`), contentType: "application/json", putID: "a-put-id"},
		{key: "own-type", value: []byte("x"), contentType: "application/vnd.example.thing+json; version=" + strings.Repeat("1", 150)},
		{key: "bytes", value: []byte{0, 1, 0xff, 0xfe, '\n', 0}, putID: "0123456789abcdef0123456789abcdef"},
		{key: "long-put-id", value: []byte("y"), putID: strings.Repeat("~", 64)},
		{key: "with-meta", value: []byte("z"), meta: map[string]string{"Color": "blue", "Made-By": "a test", "Empty": ""}},
		{key: "a/b/../c//", value: []byte("slashes")},
		{key: "a key with spaces, %2F, ?, # and \"", value: []byte("odd")},
		{key: "ключ/鍵/🔑", value: []byte("not ASCII")},
		{key: "\x01\xff\x80 not UTF-8 \n\x7f", value: []byte("bytes in the key")},
		{key: strings.Repeat("k", 1024), value: []byte("the longest key")},
		{key: "4k", value: long[:4<<10]},
		{key: "largest-in-its-record", value: long[:16<<10-1]},
		{key: "smallest-body", value: long[:16<<10], putID: "a-body"},
		{key: "a-body-again", value: long[:16<<10], contentType: "text/plain"},
		{key: "100k", value: long[:100<<10], contentType: "text/plain"},
		{key: "largest-in-one-piece", value: long[:1<<20]},
		{key: "in-chunks", value: long[:1<<20+1], contentType: "text/plain"},
		{key: "in-chunks-again", value: long[:1<<20+1]},
		{key: "in-more-chunks", value: append(append([]byte(nil), long[:1<<20]...), long[:1<<20+7]...), putID: "chunks"},
	}
	for i := range 40 {
		puts = append(puts, fixturePut{key: fmt.Sprintf("single/%d", i), value: []byte("single"), putID: fmt.Sprintf("single-%d", i)})
	}
	return puts
}

// TestFixture_Make makes the fixtures of the current program: the data directory of one node
// after a stop and, some puts later, after a kill.
func TestFixture_Make(t *testing.T) {
	dir, name := fixtureDir, *fixtureName
	if name == "" { // what it makes is read then, and not kept
		t.Parallel()
		dir, name = t.TempDir(), "now"
	}
	for _, how := range []string{"-stopped", "-killed"} {
		for _, file := range []string{".json", ".tar.gz"} {
			path := filepath.Join(dir, name+how+file)
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Fatalf("%s is there, and is never made again (%v)", path, err)
			}
		}
	}
	p := clustertest.NewProcesses(t, bin, 1, 0, "--snapshot-log-bytes", "1MiB")
	n := p.DBs[0]
	n.Start()
	n.WaitReady()
	m := &fixtureMaker{t: t, n: n, path: filepath.Join(dir, name), ids: map[string]string{}}
	for _, put := range fixturePuts() {
		m.put(put)
	}
	m.breakOff("broken-off")
	n.Start()
	n.WaitReady()
	m.batch("batch/%d", 60)
	m.run(2_100, "run/%04d", "run-%d")
	m.put(fixturePut{key: "before the stop", value: []byte("stopped")})
	want := m.describe()
	if code, _ := n.Terminate(); code != 0 {
		t.Fatalf("%s ended with code %d", n.Name, code)
	}
	m.store("-stopped", want)

	n.Start()
	n.WaitReady()
	m.run(200, "more/%04d", "")
	m.batch("batch/more/%d", 20)
	m.breakOff("broken-off-again", func() {
		// These puts are in the log, and not all in history yet.
		for i := range 20 {
			m.put(fixturePut{key: fmt.Sprintf("last/%d", i), value: []byte("last"), putID: fmt.Sprintf("last-%d", i)})
		}
		want = m.describe()
	})
	m.store("-killed", want)
	if *fixtureName == "" {
		opensFixtures(t, dir)
	}
}

// fixtureMaker puts the keys of a fixture, and notes what cannot be read back.
type fixtureMaker struct {
	path string // of what it makes, without the end of the name
	t    *testing.T
	n    *clustertest.Process
	ids  map[string]string // put ids by key
	runs []fixtureRun
	left []string // keys whose puts were interrupted
}

func (m *fixtureMaker) put(p fixturePut) {
	m.t.Helper()
	if code := m.send(p); code != http.StatusCreated {
		m.t.Fatalf("put %q: status %d", p.key, code)
	}
	m.ids[p.key] = p.putID
	other := fixturePut{key: p.key, value: append([]byte("not "), p.value...)}
	if code := m.send(other); code != http.StatusConflict { // it only leaves entries in the log
		m.t.Fatalf("put %q again with other bytes: status %d", p.key, code)
	}
}

func (m *fixtureMaker) send(p fixturePut) int {
	m.t.Helper()
	req := p.request(m.t, m.n, bytes.NewReader(p.value))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func (p *fixturePut) url(n *clustertest.Process) string {
	return n.URL() + "/key/" + url.PathEscape(p.key)
}

func (p *fixturePut) request(t *testing.T, n *clustertest.Process, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(clustertest.WithTimeout(t), http.MethodPut, p.url(n), body)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{api.HeaderPutID: p.putID, "Content-Type": p.contentType} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	for name, value := range p.meta {
		req.Header.Set("Oncekv-Meta-"+name, value)
	}
	return req
}

// run puts many keys one after the other.
func (m *fixtureMaker) run(count int, key, putID string) {
	m.t.Helper()
	s, err := m.n.Stats()
	if err != nil {
		m.t.Fatal(err)
	}
	r := fixtureRun{First: s.Revision + 1, Count: count, Key: key, PutID: putID, Values: []string{"", "one", "two", "three"}}
	for i := range count {
		p := r.put(i)
		if code := m.send(p); code != http.StatusCreated {
			m.t.Fatalf("put %q: status %d", p.key, code)
		}
	}
	m.runs = append(m.runs, r)
}

// batch puts keys in one request, so that log entries contain several.
func (m *fixtureMaker) batch(key string, count int) {
	m.t.Helper()
	postLines(m.t, m.n.URL(), count, func(i int) string {
		return fmt.Sprintf("{\"key\":%q,\"value\":\"in a batch\"}\n", fmt.Sprintf(key, i))
	}, func(i int, result api.BatchResult) {
		if result.Status != api.BatchCreated {
			m.t.Fatalf("line %d: %+v", i+1, result)
		}
	})
}

// breakOff kills the node when it has some chunks of a value but not all. It first calls
// before.
func (m *fixtureMaker) breakOff(key string, before ...func()) {
	m.t.Helper()
	s, err := m.n.Stats()
	if err != nil {
		m.t.Fatal(err)
	}
	body, feed := io.Pipe()
	value := bytes.Repeat([]byte("this never gets to its end\n"), 3<<20/27)
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	p := fixturePut{key: key, value: value}
	req := p.request(m.t, m.n, body).WithContext(ctx)
	req.ContentLength = int64(len(value))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if resp, err := http.DefaultClient.Do(req); err == nil { // the node is killed
			resp.Body.Close()
		}
	}()
	go feed.Write(value[:len(value)*5/6])
	clustertest.Eventually(m.t, "the upload is open", func() error {
		now, err := m.n.Stats()
		if err == nil && (now.OpenUploads == s.OpenUploads || now.AppliedIndex < s.AppliedIndex+2) {
			err = fmt.Errorf("%d are", now.OpenUploads)
		}
		return err
	})
	m.left = append(m.left, key)
	for _, do := range before {
		do()
	}
	m.n.Kill9()
	feed.Close()
	<-sent
}

// describe returns what the node has.
func (m *fixtureMaker) describe() fixture {
	m.t.Helper()
	s, err := m.n.Stats()
	if err != nil {
		m.t.Fatal(err)
	}
	f := fixture{Level: s.Level.Store, History: s.History, Revision: s.Revision, Digest: s.Digest, Checkpoints: s.Checkpoints,
		Keys: s.Keys, ValueBytes: s.ValueBytes, OpenUploads: s.OpenUploads, Unset: m.left, Runs: m.runs}
	inRun := map[uint64]api.Record{}
	for _, r := range m.runs {
		for i := range r.Count {
			inRun[r.First+uint64(i)] = r.record(i)
		}
	}
	for _, line := range changeLines(m.t, m.n) {
		var c api.Record
		if err := json.Unmarshal(line, &c); err != nil {
			m.t.Fatal(err)
		}
		if want, ok := inRun[c.Revision]; ok {
			if c.Time = nil; !reflect.DeepEqual(c, want) {
				m.t.Fatalf("%+v at its revision in a run; want %+v", c, want)
			}
			continue
		}
		key, err := c.RawKey()
		if err != nil {
			m.t.Fatal(err)
		}
		f.Records = append(f.Records, fixtureRecord{PutID: m.ids[key], Line: line})
	}
	return f
}

// store writes the node's data, and what must be read from it.
func (m *fixtureMaker) store(how string, want fixture) {
	m.t.Helper()
	if want.OpenUploads != len(want.Unset) {
		m.t.Fatalf("%d open uploads of %d that were broken off", want.OpenUploads, len(want.Unset))
	}
	path := m.path + how
	b, err := json.MarshalIndent(want, "", " ")
	if err != nil {
		m.t.Fatal(err)
	}
	f, err := os.OpenFile(path+".json", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := f.Write(append(b, '\n')); err != nil {
		m.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		m.t.Fatal(err)
	}
	if err := clustertest.Pack(m.n.Dir, path+".tar.gz"); err != nil {
		m.t.Fatal(err)
	}
}

// changeLines returns the lines of GET /changes.
func changeLines(t *testing.T, n *clustertest.Process) []json.RawMessage {
	t.Helper()
	resp, err := http.Get(n.URL() + "/changes")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var lines []json.RawMessage
	for d := json.NewDecoder(resp.Body); ; {
		var line json.RawMessage
		err := d.Decode(&line)
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
}
