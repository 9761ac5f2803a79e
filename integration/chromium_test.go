package integration

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// chromium returns the path of a browser; without one it skips the test.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	full(t, "there is no Chromium here (Debian package chromium)")
	t.Fatal("there is no Chromium here (Debian package chromium)")
	return ""
}

// browserLife bounds the life of a browser, whatever happens.
const browserLife = 30 * time.Minute

// page is the admin's page in its own browser. Every complaint of Chromium is a fault and
// fails the test, unless the test has announced it: a warning or an error on the console, an
// uncaught exception, a request that failed or was answered with an error, and any request to
// another origin.
type page struct {
	t      *testing.T
	ctx    context.Context // the tab's
	origin string
	axe    string // the source of what looks at accessibility; "": nothing does

	mu      sync.Mutex // guards the fields below, which the goroutine that reads the browser's messages fills
	asked   map[network.RequestID]network.Request
	faults  []fault
	offline bool    // the admin does not run: requests may fail to reach it
	failing bool    // the nodes do not work: requests may be answered with 5xx
	loaded  float64 // bytes that came over the network
}

// fault is something that should not have happened.
type fault struct {
	method string // method of a request answered with an error; "" for other faults
	url    string
	text   string
}

func (f fault) String() string { return strings.TrimSpace(f.method + " " + f.url + ": " + f.text) }

// openPage starts a browser and loads the page. The browser is gone when the test ends.
func openPage(t *testing.T, origin string) *page {
	t.Helper()
	p := &page{t: t, origin: origin, axe: axe(t), asked: map[network.RequestID]network.Request{}}
	flags := slices.Clone(chromedp.DefaultExecAllocatorOptions[:]) // a fresh profile, and no sandbox for root
	flags = append(flags, chromedp.ExecPath(chromium(t)), chromedp.WSURLReadTimeout(clustertest.Patience))
	for _, flag := range []string{"disable-gpu", "disable-quic", "disable-component-update"} {
		flags = append(flags, chromedp.Flag(flag, true))
	}
	life, end := context.WithTimeout(context.Background(), browserLife)
	t.Cleanup(end)
	allocator, gone := chromedp.NewExecAllocator(life, flags...)
	t.Cleanup(gone) // waits for the process
	var closeTab context.CancelFunc
	p.ctx, closeTab = chromedp.NewContext(allocator)
	t.Cleanup(func() {
		defer closeTab()
		ctx, cancel := context.WithTimeout(p.ctx, clustertest.Patience)
		defer cancel()
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("closing the browser: %v", err)
		}
	})
	if err := chromedp.Listen(p.ctx, p.hear); err != nil { // it starts the browser, which lives as long as this context
		t.Fatalf("start the browser: %v", err)
	}
	p.desktop(light)
	p.do("load the page", chromedp.Navigate(origin))
	return p
}

// hear records what the browser reports about the tab.
func (p *page) hear(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == "warning" || e.Type == "error" || e.Type == "assert" {
			var text []string
			for _, arg := range e.Args {
				text = append(text, strings.Trim(string(arg.Value), `"`)+arg.Description)
			}
			p.fault(fault{text: fmt.Sprintf("console %s: %s", e.Type, strings.Join(text, " "))})
		}
	case *runtime.EventExceptionThrown:
		p.fault(fault{url: e.ExceptionDetails.URL, text: "uncaught: " + (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error()})
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelWarning || e.Entry.Level == log.EntryLevelError {
			p.fault(fault{url: e.Entry.URL, text: e.Entry.Text})
		}
	case *network.EventRequestWillBeSent:
		p.asked[e.RequestID] = *e.Request
		if !p.own(e.Request.URL) {
			p.fault(fault{url: e.Request.URL, text: "a request to another origin"})
		}
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 {
			p.fault(fault{method: p.asked[e.RequestID].Method, url: e.Response.URL, text: strconv.FormatInt(e.Response.Status, 10)})
		}
	case *network.EventLoadingFailed:
		if !e.Canceled {
			p.fault(fault{url: p.asked[e.RequestID].URL, text: e.ErrorText})
		}
		delete(p.asked, e.RequestID)
	case *network.EventLoadingFinished:
		p.loaded += e.EncodedDataLength
		delete(p.asked, e.RequestID)
	}
}

// own reports whether a URL has the page's origin, or needs no network.
func (p *page) own(at string) bool {
	u, err := url.Parse(at)
	return err == nil && (u.Scheme+"://"+u.Host == p.origin || u.Scheme == "data" || u.Scheme == "blob" || u.Scheme == "about")
}

func (p *page) fault(f fault) {
	if p.failing && p.own(f.url) && (strings.HasPrefix(f.text, "5") || strings.HasPrefix(f.text, "Failed to load resource: the server responded with a status of 5")) {
		return
	}
	if p.offline && p.own(f.url) && f.method == "" && strings.Contains(f.text, "net::ERR_") {
		return
	}
	p.faults = append(p.faults, f)
}

// refused removes the faults of one request that the test wanted to be refused: the answer,
// and Chromium's line about it on the console.
func (p *page) refused(method, path string, status int) {
	p.t.Helper()
	at := func(f fault) bool {
		u, err := url.Parse(f.url)
		return err == nil && p.own(f.url) && u.Path == path
	}
	p.take(fmt.Sprintf("%s %s is answered with %d", method, path, status), func(f fault) bool {
		return f.method == method && at(f) && f.text == strconv.Itoa(status)
	})
	p.take(fmt.Sprintf("the console names the %d", status), func(f fault) bool {
		return f.method == "" && at(f) && strings.HasPrefix(f.text, fmt.Sprintf("Failed to load resource: the server responded with a status of %d ", status))
	})
}

// take waits for one fault and removes it.
func (p *page) take(what string, is func(fault) bool) {
	p.t.Helper()
	clustertest.Eventually(p.t, what, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		i := slices.IndexFunc(p.faults, is)
		if i < 0 {
			return fmt.Errorf("it was not, but: %v", p.faults)
		}
		p.faults = slices.Delete(p.faults, i, i+1)
		return nil
	})
}

// unreachable allows requests that do not reach the admin, while it does not run.
func (p *page) unreachable(offline bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offline = offline
}

// unanswered allows requests that fail while the nodes do not work.
func (p *page) unanswered(failing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failing = failing
}

// clean reports every fault so far.
func (p *page) clean(step string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		p.t.Errorf("%s: %v", step, f)
	}
	p.faults = nil
}

// within runs one action in the tab within a time limit.
func within[T any](p *page, a chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(p.ctx, clustertest.Patience)
	defer cancel()
	return chromedp.Run(ctx, a)
}

func (p *page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if _, err := within(p, chromedp.Steps(steps...)); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

// eval evaluates an expression in the page, and waits for promises.
func eval[T any](p *page, expression string) T {
	p.t.Helper()
	v, err := within(p, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// hook returns a selector for one of the page's data-testid, with more appended.
func hook(id, more string) string { return "[data-testid=" + id + "]" + more }

// count returns how many elements exist and are visible.
func (p *page) count(selector string) int {
	p.t.Helper()
	return eval[int](p, fmt.Sprintf("[...document.querySelectorAll(%q)].filter((e) => e.checkVisibility()).length", selector))
}

// sees waits until exactly n such elements are visible.
func (p *page) sees(n int, selector string) {
	p.t.Helper()
	clustertest.Eventually(p.t, fmt.Sprintf("%d of %s", n, selector), func() error {
		if got := p.count(selector); got != n {
			return fmt.Errorf("%d of them; the page says %q", got, p.text("body"))
		}
		return nil
	})
}

// text returns the visible text of the first such element, "" if there is none.
func (p *page) text(selector string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// reads waits until such an element contains all of the texts.
func (p *page) reads(selector string, want ...string) {
	p.t.Helper()
	clustertest.Eventually(p.t, selector+" reads "+strings.Join(want, " and "), func() error {
		got := p.text(selector)
		for _, text := range want {
			if !strings.Contains(got, text) {
				return fmt.Errorf("it reads %q", got)
			}
		}
		return nil
	})
}

// click clicks an element with the mouse, as soon as that is possible.
func (p *page) click(selector string) {
	p.t.Helper()
	at := chromedp.CSS(selector)
	p.do("click "+selector, chromedp.WaitVisible(at), chromedp.WaitEnabled(at), chromedp.Click(at))
}

// fill replaces the text of an input as if it were pasted.
func (p *page) fill(selector, text string) {
	p.t.Helper()
	at := chromedp.CSS(selector)
	p.do("fill "+selector, chromedp.WaitVisible(at), chromedp.Focus(at))
	eval[chromedp.Void](p, fmt.Sprintf("document.querySelector(%q).select()", selector))
	p.do("type", chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, input.InsertText, input.InsertTextParams{Text: text})
		return err
	}))
	if got := eval[string](p, fmt.Sprintf("document.querySelector(%q).value", selector)); got != text {
		p.t.Fatalf("fill %s: it holds %q", selector, got)
	}
}

// traffic returns how many bytes have come over the network.
func (p *page) traffic() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loaded
}
