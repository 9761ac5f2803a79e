package chart_test

import (
	"bytes"
	"encoding/xml"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/chart"
)

// Bars lie inside the picture whatever their values, and each has a name, even if there are no
// bars or no value is above zero.
func TestWrite_Bars(t *testing.T) {
	some := []chart.Bar{{Name: "a < b", Value: 2, Text: "2.00", Color: chart.Blue}, {Name: "nothing", Text: "0", Color: chart.Red}, {Name: "below", Value: -1, Color: chart.Grey}}
	for _, p := range []*chart.Bars{{Title: "some", Bars: some, Mark: 1}, {Title: "far", Bars: some, Mark: 50}, {Title: "zero", Bars: some[1:2]}, {Title: "none"}} {
		var picture bytes.Buffer
		if err := chart.Write(&picture, "title", "subtitle", p, &chart.Lines{Title: "no lines"}); err != nil {
			t.Fatal(err)
		}
		rects, texts := 0, ""
		for decoder := xml.NewDecoder(&picture); ; {
			token, err := decoder.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch e := token.(type) {
			case xml.StartElement:
				if e.Name.Local == "rect" {
					rects++
				}
				inside(t, e)
			case xml.CharData:
				texts += string(e)
			}
		}
		if rects != len(p.Bars)+1 {
			t.Errorf("%s: %d rectangles for %d bars and the ground", p.Title, rects, len(p.Bars))
		}
		for _, b := range p.Bars {
			if !strings.Contains(texts, b.Name) || !strings.Contains(texts, b.Text) {
				t.Errorf("%s: the texts are %s", p.Title, texts)
			}
		}
	}
}

func inside(t *testing.T, e xml.StartElement) {
	t.Helper()
	end := 0.0
	for _, a := range e.Attr {
		if a.Name.Local != "x" && (a.Name.Local != "width" || strings.Contains(a.Value, "%")) {
			continue
		}
		n, err := strconv.ParseFloat(a.Value, 64)
		if err != nil || math.IsNaN(n) || n < 0 {
			t.Errorf("%s=%q", a.Name.Local, a.Value)
		}
		end += n
	}
	if end > chart.Width {
		t.Errorf("a %s ends at %v", e.Name.Local, end)
	}
}
