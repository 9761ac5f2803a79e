package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

const (
	light = "light"
	dark  = "dark"

	desktopWidth = 1440
	phoneWidth   = 360
)

func (p *page) desktop(theme string) { p.appear(theme, chromedp.EmulateViewport(desktopWidth, 900)) }
func (p *page) phone(theme string) {
	p.appear(theme, chromedp.EmulateViewport(phoneWidth, 740, chromedp.EmulateMobile, chromedp.EmulateScale(2)))
}

// appear sets the browser's size and theme, and disables motion.
func (p *page) appear(theme string, viewport chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	p.do("emulate", viewport, chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: theme},
			{Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}))
}

// look takes pictures of the page as it is now, wide and narrow, light and dark, and checks
// each: nothing overflows a phone's screen, and axe finds nothing serious. `go test
// -artifacts` keeps the pictures.
func (p *page) look(name string) {
	p.t.Helper()
	for _, theme := range []string{light, dark} {
		p.desktop(theme)
		p.examine(name+"-desktop-"+theme, theme, desktopWidth)
		p.phone(theme)
		p.examine(name+"-phone-"+theme, theme, phoneWidth)
	}
	p.desktop(light)
}

// overhang tells how far the page overflows a screen of that width, and which elements do; ""
// if it does not. The window's width alone proves nothing: a phone widens it to fit the
// overflow.
func (p *page) overhang(screen int) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf(`(() => {
		const width = document.scrollingElement.scrollWidth, room = Math.min(innerWidth, %d)
		if (width <= room) return ''
		const over = [...document.body.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > room + 0.5)
		return width + ' px: ' + over.slice(0, 8).map((e) => e.tagName + '.' + e.className).join(', ')
	})()`, screen))
}

func (p *page) examine(name, theme string, width int) {
	p.t.Helper()
	clustertest.Eventually(p.t, name+" is drawn", func() error {
		if eval[bool](p, "document.documentElement.classList.contains('dark')") != (theme == dark) {
			return errors.New("the page has not followed the theme")
		}
		eval[chromedp.Void](p, "document.fonts.ready.then(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))))")
		return nil
	})
	if over := p.overhang(width); over != "" {
		p.t.Errorf("%s can be scrolled sideways: %s", name, over)
	}
	p.picture(name)
	for _, f := range p.audit() {
		if f.Impact == "serious" || f.Impact == "critical" {
			p.t.Errorf("%s: %v", name, f)
		} else {
			p.t.Logf("%s: %v", name, f)
		}
	}
}

// picture saves a picture of the whole page, in a window as high as the page.
func (p *page) picture(name string) {
	p.t.Helper()
	p.do("stretch", chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		size, err := chromedp.Evaluate[[]int64]("[innerWidth, Math.max(innerHeight, document.scrollingElement.scrollHeight), devicePixelRatio]")(ctx, tab)
		if err != nil {
			return err
		}
		_, err = cdp.Call(ctx, tab, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
			Width: size[0], Height: size[1], DeviceScaleFactor: float64(size[2]), Mobile: size[0] == phoneWidth,
		})
		return err
	}))
	png, err := within(p, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(p.t.ArtifactDir(), name+".png"), png, 0o644)
	}
	if err != nil {
		p.t.Fatalf("picture of %s: %v", name, err)
	}
}

// axePath is where npm puts axe, the engine of the accessibility checks.
const axePath = "../adminui/node_modules/axe-core/axe.min.js"

// finding is one rule of axe that the page breaks.
type finding struct {
	ID, Impact, Help string
	At               []string
}

func (f finding) String() string {
	return fmt.Sprintf("axe, %s: %s (%s), %d times:\n%s", f.Impact, f.Help, f.ID, len(f.At), strings.Join(f.At[:min(len(f.At), 4)], "\n"))
}

// audit runs axe on the page as it is now.
func (p *page) audit() []finding {
	p.t.Helper()
	if p.axe == "" {
		return nil
	}
	if !eval[bool](p, "'axe' in window") {
		eval[chromedp.Void](p, p.axe+";undefined")
	}
	return eval[[]finding](p, `axe.run(document, {resultTypes: ['violations'], preload: false}).then((r) => r.violations.map((v) =>
		({ID: v.id, Impact: v.impact, Help: v.help, At: v.nodes.map((n) => n.target.join(' ') + ' ' + n.failureSummary)})))`)
}

// axe returns the source of the engine, "" if npm has not installed it.
func axe(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile(axePath)
	if err == nil {
		return string(source)
	}
	if !errors.Is(err, fs.ErrNotExist) || os.Getenv("ONCEKV_TEST_FULL") != "" {
		t.Fatalf("%v: run npm ci in adminui", err)
	}
	t.Logf("accessibility is not looked at: %v; run npm ci in adminui", err)
	return ""
}
