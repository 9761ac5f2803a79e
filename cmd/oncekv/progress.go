package main

import (
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows on a terminal how many bytes or steps are done. A nil progress shows nothing.
// It is safe for concurrent use.
type progress struct {
	bar  *progressbar.ProgressBar
	once sync.Once
}

// progress returns nil unless standard error is a terminal and there is enough to do.
func (a *app) progress(what string, total int64) *progress {
	const totalMin = 4 << 20
	if !isTerminal(a.stderr) || total < totalMin {
		return nil
	}
	return newProgress(a.stderr, what, total)
}

// steps returns a progress that does not count bytes.
func (a *app) steps(what string, total int64) *progress {
	if !isTerminal(a.stderr) {
		return nil
	}
	return newBar(a.stderr, what, total)
}

func newProgress(w io.Writer, what string, total int64) *progress {
	return newBar(w, what, total, progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true))
}

func newBar(w io.Writer, what string, total int64, more ...progressbar.Option) *progress {
	return &progress{bar: progressbar.NewOptions64(total, append(more,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(what),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionFullWidth(),
		progressbar.OptionClearOnFinish(),
	)...)}
}

func (p *progress) add(n int64) {
	if p != nil {
		p.bar.Add64(n)
	}
}

// say replaces the words before the bar.
func (p *progress) say(what string) {
	if p != nil {
		p.bar.Describe(what)
	}
}

// clear makes room for a line of text; the bar comes back with the next add.
func (p *progress) clear() {
	if p != nil {
		p.bar.Clear()
	}
}

// finish removes the bar. It may be called again.
func (p *progress) finish() {
	if p != nil {
		p.once.Do(func() { p.bar.Finish() })
	}
}

// count returns a reader that passes r on and counts what is read.
func (p *progress) count(r io.Reader) io.Reader {
	if p == nil {
		return r
	}
	return &counter{r, p}
}

type counter struct {
	io.Reader
	p *progress
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.p.add(int64(n))
	return n, err
}

// meter returns a reader that passes body on and counts every byte once, however often it is
// sent.
func (p *progress) meter(body io.ReadSeeker) io.ReadSeeker {
	if p == nil {
		return body
	}
	return &meter{ReadSeeker: body, p: p}
}

// meter is used by one goroutine at a time.
type meter struct {
	io.ReadSeeker
	p       *progress
	at, top int64
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.ReadSeeker.Read(b)
	m.at += int64(n)
	m.rise()
	return n, err
}

func (m *meter) Seek(offset int64, whence int) (int64, error) {
	at, err := m.ReadSeeker.Seek(offset, whence)
	if err == nil {
		m.at = at
	}
	return at, err
}

// rise counts bytes read for the first time.
func (m *meter) rise() {
	if m.at > m.top {
		m.p.add(m.at - m.top)
		m.top = m.at
	}
}
