package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func digestOf(b byte) (d [32]byte) {
	for i := range d {
		d[i] = b
	}
	return d
}

// samples are one frame of each kind and form, as values.
func samples() []any {
	long := strings.Repeat("k", 1024)
	return []any{
		&Put{ID: 1, Key: "foo", Value: []byte("bar")},
		&Put{ID: math.MaxUint32, IfAbsent: true, Keep: true, HasDigest: true, Digest: digestOf(7), PutID: "job-1", ContentType: "text/plain", Key: long, Value: bytes.Repeat([]byte{0}, ValueBytesMax)},
		&Put{ID: 2, ContentType: "application/octet-stream", Key: "\xff\x00", Value: []byte{}},
		&Put{ID: 11, HasDigest: true, Key: "foo", Meta: map[string]string{"b": "2", "a": "", "a-1": "x y"}, Value: []byte("bar")},
		&Get{ID: 3, Key: "foo"},
		&Get{ID: 4, Local: true, Key: long},
		&Set{ID: 5, Created: true, Winner: Winner{Revision: math.MaxUint64, Size: 3, Digest: digestOf(1)}},
		&Set{ID: 6},
		&Value{ID: 7, Revision: 9, Time: -1, Digest: digestOf(2), Cache: "hit", ContentType: "text/plain", Value: bytes.Repeat([]byte{1}, ValueBytesMax)},
		&Value{ID: 8, Value: []byte{}},
		&Value{ID: 12, By: "someone", Value: []byte{1}},
		&Value{ID: 13, By: strings.Repeat("b", 255), Meta: largestMeta(), ContentType: "text/plain", Value: bytes.Repeat([]byte{1}, ValueBytesMax)},
		uint32(9), // large
		&Problem{ID: 10, Status: 409, Type: "urn:x", Title: "t", Detail: "d", HasWinner: true, Winner: Winner{Revision: 1, Size: 2, Digest: digestOf(3)}},
		&Problem{ID: 0, Status: 413, RetryAfter: 5, HasLimit: true, Limit: 1 << 40},
	}
}

// largestMeta is one that takes as much as can be.
func largestMeta() map[string]string {
	return map[string]string{"n": strings.Repeat("v", metaBytesMax-2-4-4), "z": ""}
}

func encode(b []byte, v any) []byte {
	switch v := v.(type) {
	case *Put:
		return AppendPut(b, v)
	case *Get:
		return AppendGet(b, v)
	case *Set:
		return AppendSet(b, v)
	case *Value:
		return AppendValue(b, v)
	case *Problem:
		return AppendProblem(b, v)
	case uint32:
		return AppendLarge(b, v)
	}
	panic("a sample of an unknown type")
}

func decode(f *Frame) (any, error) {
	switch f.Kind {
	case KindPut:
		v, err := f.Put()
		return &v, err
	case KindGet:
		v, err := f.Get()
		return &v, err
	case KindSet:
		v, err := f.Set()
		return &v, err
	case KindValue:
		v, err := f.Value()
		return &v, err
	case KindProblem:
		v, err := f.Problem()
		return &v, err
	case KindLarge:
		return f.ID, f.Large()
	}
	return nil, ErrMalformed
}

// TestReader: what is written is read, however it arrives.
func TestReader(t *testing.T) {
	var stream []byte
	for _, v := range samples() {
		stream = encode(stream, v)
	}
	for name, src := range map[string]io.Reader{
		"at once":      bytes.NewReader(stream),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"with its end": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(src)
			for _, want := range samples() {
				f, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				got, err := decode(&f)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("read %.200v, want %.200v", got, want)
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("behind the last frame: %v", err)
			}
			if len(r.buf) > BytesMax {
				t.Errorf("the reader holds %d bytes", len(r.buf))
			}
		})
	}
}

// TestAppend_Layout: the bytes are those of the documentation.
func TestAppend_Layout(t *testing.T) {
	for want, v := range map[string]any{
		"0000000f" + "01" + "00000007" + "01" + "01" + "69" + "01" + "74" + "0001" + "6b" + "7676" + "":                                                                     &Put{ID: 7, IfAbsent: true, PutID: "i", ContentType: "t", Key: "k", Value: []byte("vv")},
		"00000008" + "02" + "00000001" + "01" + "6b6b":                                                                                                                      &Get{ID: 1, Local: true, Key: "kk"},
		"00000036" + "81" + "00000002" + "01" + "0000000000000003" + "0000000000000004" + strings.Repeat("05", 32):                                                          &Set{ID: 2, Created: true, Winner: Winner{Revision: 3, Size: 4, Digest: digestOf(5)}},
		"0000001e" + "01" + "00000007" + "08" + "00" + "00" + "0001" + "6b" + "0010" + "0161" + "0003" + "783179" + "0162" + "0000" + "026263" + "0000" + "76":              &Put{ID: 7, Key: "k", Meta: map[string]string{"b": "", "a": "x1y", "bc": ""}, Value: []byte("v")},
		"0000003d" + "82" + "00000001" + "00" + "0000000000000002" + "ffffffffffffffff" + strings.Repeat("03", 32) + "03" + "686974" + "01" + "74" + "76" + "":              &Value{ID: 1, Revision: 2, Time: -1, Digest: digestOf(3), Cache: "hit", ContentType: "t", Value: []byte("v")},
		"00000041" + "82" + "00000001" + "03" + "0000000000000002" + "0000000000000000" + strings.Repeat("03", 32) + "00" + "00" + "0162" + "0004" + "0161" + "0000" + "76": &Value{ID: 1, Revision: 2, Digest: digestOf(3), By: "b", Meta: map[string]string{"a": ""}, Value: []byte("v")},
		"00000005" + "83" + "00000001": uint32(1),
		"00000018" + "ff" + "00000000" + "01f7" + "0001" + "02" + "01" + "74" + "00" + "0001" + "64" + "0000000000000009": &Problem{Status: 503, RetryAfter: 1, Type: "t", Detail: "d", HasLimit: true, Limit: 9},
	} {
		if got := hex.EncodeToString(encode(nil, v)); got != want {
			t.Errorf("%+v is\n%s, want\n%s", v, got, want)
		}
	}
}

// TestReader_Malformed: what is no frame is refused, and nothing is invented.
func TestReader_Malformed(t *testing.T) {
	for name, tt := range map[string]struct {
		bytes string
		want  error
	}{
		"nothing":           {"", io.EOF},
		"half a length":     {"\x00\x00", io.ErrUnexpectedEOF},
		"half a frame":      {"\x00\x00\x00\x08\x02\x00", io.ErrUnexpectedEOF},
		"no room for id":    {"\x00\x00\x00\x04\x02\x00\x00\x00", ErrMalformed},
		"too long":          {"\x00\x01\x20\x00\x02\x00\x00\x00\x01", ErrMalformed},
		"longest length":    {"\xff\xff\xff\xff\x02", ErrMalformed},
		"an NDJSON line":    {`{"key":"a","value":"b"}` + "\n", ErrMalformed},
		"length of a put":   {"\x00\x00\x00\x06\x01\x00\x00\x00\x01\x00", ErrMalformed},
		"unknown flag":      {"\x00\x00\x00\x07\x02\x00\x00\x00\x01\x02k", ErrMalformed},
		"more than large":   {"\x00\x00\x00\x06\x83\x00\x00\x00\x01\x00", ErrMalformed},
		"names in disorder": {"\x00\x00\x00\x15\x01\x00\x00\x00\x01\x08\x00\x00\x00\x01k\x00\x08\x01b\x00\x00\x01a\x00\x00", ErrMalformed},
		"a name twice":      {"\x00\x00\x00\x15\x01\x00\x00\x00\x01\x08\x00\x00\x00\x01k\x00\x08\x01a\x00\x00\x01a\x00\x00", ErrMalformed},
		"no name":           {"\x00\x00\x00\x10\x01\x00\x00\x00\x01\x08\x00\x00\x00\x01k\x00\x03\x00\x00\x00", ErrMalformed},
		"empty metadata":    {"\x00\x00\x00\x0d\x01\x00\x00\x00\x01\x08\x00\x00\x00\x01k\x00\x00", ErrMalformed},
		"half a name":       {"\x00\x00\x00\x0f\x01\x00\x00\x00\x01\x08\x00\x00\x00\x01k\x00\x02\x05a", ErrMalformed},
		"an empty by":       {"\x00\x00\x00\x39\x82\x00\x00\x00\x01\x01" + strings.Repeat("\x00", 8+8+32) + "\x00\x00\x00", ErrMalformed},
		"unknown kind":      {"\x00\x00\x00\x05\x7f\x00\x00\x00\x01", ErrMalformed},
	} {
		f, err := NewReader(strings.NewReader(tt.bytes)).Next()
		if err == nil {
			_, err = decode(&f)
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// TestReader_Error: a stream's own error comes behind what came before it.
func TestReader_Error(t *testing.T) {
	broken := errors.New("broken")
	r := NewReader(io.MultiReader(bytes.NewReader(AppendGet(nil, &Get{ID: 1, Key: "k"})), iotest.ErrReader(broken)))
	if f, err := r.Next(); err != nil || f.ID != 1 {
		t.Fatalf("frame %v, %v", f, err)
	}
	for range 2 {
		if _, err := r.Next(); err != broken {
			t.Errorf("error %v", err)
		}
	}
}

// TestPutFits: what fits can be appended, up to the last byte.
func TestPutFits(t *testing.T) {
	key, long := strings.Repeat("k", 1024), strings.Repeat("t", 255)
	if !PutFits(key, long, long[:64], ValueBytesMax) {
		t.Error("the largest put does not fit")
	}
	if n := len(AppendPut(nil, &Put{HasDigest: true, Key: key, ContentType: long, PutID: long[:64], Value: make([]byte, ValueBytesMax)})); n > BytesMax {
		t.Errorf("it has %d bytes", n)
	}
	if meta := largestMeta(); !MetaFits(meta) || !MetaFits(nil) {
		t.Error("the largest metadata does not fit")
	} else if n := len(AppendPut(nil, &Put{HasDigest: true, Key: key, ContentType: long, PutID: long[:64], Meta: meta, Value: make([]byte, ValueBytesMax)})); n > BytesMax {
		t.Errorf("with it a put has %d bytes", n)
	}
	tooMuch := largestMeta()
	tooMuch["z"] = "1"
	for name, fits := range map[string]bool{
		"metadata":     MetaFits(tooMuch),
		"name":         MetaFits(map[string]string{long + "t": ""}),
		"value":        PutFits("k", "", "", ValueBytesMax+1),
		"content type": PutFits("k", long+"t", "", 0),
		"put id":       PutFits("k", "", long+"t", 0),
		"key":          PutFits(strings.Repeat("k", 2048), "", "", 0),
	} {
		if fits {
			t.Errorf("too long a %s fits", name)
		}
	}
}

// FuzzReader: whatever arrives, memory is bounded, and a frame that decodes is
// the one that would be encoded.
func FuzzReader(f *testing.F) {
	for _, v := range samples() {
		if b := encode(nil, v); len(b) < 4096 {
			f.Add(b)
		}
	}
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream))
		done := 0
		for {
			buffered := r.Buffered()
			read, err := r.Next()
			if len(r.buf) > BytesMax {
				t.Fatalf("the reader holds %d bytes", len(r.buf))
			}
			if err != nil {
				if err == io.EOF && done != len(stream) || err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrMalformed) {
					t.Fatalf("%d of %d bytes, then %v", done, len(stream), err)
				}
				return
			}
			size := headBytes + len(read.body)
			v, err := decode(&read)
			if err == nil && !bytes.Equal(encode(nil, v), stream[done:done+size]) {
				t.Fatalf("%v is not what was read (buffered %v)", v, buffered)
			}
			done += size
		}
	})
}
