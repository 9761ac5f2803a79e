package httpapi

import (
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
)

// framedOutBytes is how many bytes of answers wait for a client; then no more
// requests are taken.
const framedOutBytes = 128 << 10

// frameFailed is logged when this node failed to answer a frame.
const frameFailed = "request in a frame failed"

// frameCodec is what the codecs of frames (package frame) have in common. Thousands
// of requests are in flight on one connection, and their answers go out as they are
// known, tagged with their request's id: nobody waits for somebody else's decision.
type frameCodec struct {
	*session
	frames *frame.Reader
}

func newFrameCodec(s *session) frameCodec { return frameCodec{s, frame.NewReader(s.duplex)} }

// inFrames reports whether a request is in frames.
func inFrames(r *http.Request) bool {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && media == api.ContentTypeFrames
}

// fetch returns the next frame when the session may work on it.
func (c *frameCodec) fetch() (frame.Frame, error) {
	f, err := c.frames.Next()
	if err == nil && f.ID == 0 {
		err = fmt.Errorf("%w: a request has the id 0", frame.ErrMalformed)
	}
	if err != nil {
		return f, malformed(err)
	}
	return f, c.resume()
}

// malformed makes a problem of an error about the bytes of a frame.
func malformed(err error) error {
	if errors.Is(err, frame.ErrMalformed) {
		return invalid("%v; neither this frame nor any after it was carried out", err)
	}
	return err
}

func (c *frameCodec) buffered() bool { return c.frames.Buffered() }

func (c *frameCodec) roomy() bool { return c.out.size() < framedOutBytes }

func (c *frameCodec) last(why *problem) []byte { return appendProblem(nil, 0, why) }

// tell answers a request.
func (c *frameCodec) tell(render func(out []byte) []byte) {
	c.out.push(render)
	c.answered(1)
}

// failed answers a request with an error.
func (c *frameCodec) failed(id uint32, err error) {
	p := c.failure(frameFailed, err)
	c.tell(func(out []byte) []byte { return appendProblem(out, id, p) })
}

func appendProblem(out []byte, id uint32, p *problem) []byte {
	f := problemFrame(id, p)
	return frame.AppendProblem(out, &f)
}

// problemFrame is a problem as a frame carries it.
func problemFrame(id uint32, p *problem) frame.Problem {
	d := &p.document
	f := frame.Problem{ID: id, Status: uint16(d.Status), Type: d.Type, Title: d.Title, Detail: d.Detail,
		HasLimit: d.LimitBytes > 0, Limit: uint64(max(0, d.LimitBytes))}
	if after, err := strconv.ParseUint(p.header["Retry-After"], 10, 16); err == nil {
		f.RetryAfter = uint16(after)
	}
	if d.Revision != 0 && d.Size != nil {
		f.HasWinner = true
		f.Winner = frame.Winner{Revision: d.Revision, Size: uint64(*d.Size)}
		_, _ = hex.Decode(f.Winner.Digest[:], []byte(d.SHA256)) // it is one of ours
	}
	return f
}
