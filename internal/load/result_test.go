package load

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/chart"
)

func someResult() *Result {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &run{Config: Config{Rate: 5, Interval: time.Second}, from: now, recorder: newRecorder(3, now)}
	for second := range 5 {
		for i := range 2000 {
			r.recorder.shard(i).answered(sample{kind: Get, latency: time.Duration(i) * time.Microsecond, service: time.Microsecond, tally: &Tally{Found: 1}})
		}
		r.recorder.shard(1).failed(sample{kind: Put, latency: time.Second, tally: &Tally{}}, errors.New("no"))
		r.recorder.shard(2).unfinished(kindUnknown, 3*time.Millisecond)
		r.endInterval(now.Add(time.Duration(second+1) * time.Second))
	}
	return r.recorder.result(&r.Config, now.Add(5*time.Second), true)
}

// Other programs read these names.
func TestResult_JSON(t *testing.T) {
	got, err := json.Marshal(someResult())
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(got, &all); err != nil {
		t.Fatal(err)
	}
	latency := `{"mean":1.001,"p50":1,"p90":1.8,"p99":1.98,"p999":1.998,"max":3.001}`
	for field, want := range map[string]string{
		"started": `"2026-01-02T03:04:05Z"`, "seconds": "5", "interrupted": "true", "corrected": "true",
		"requests": "10000", "errors": "5", "unfinished": "5", "per_second": "2000", "keys_per_second": "2000",
		"milliseconds":         latency,
		"service_milliseconds": `{"mean":0.001,"p50":0.001,"p90":0.001,"p99":0.001,"p999":0.001,"max":0.001}`,
		"keys_by_outcome":      `{"found":10000}`,
		"errors_by_kind":       `[{"kind":"other","count":5,"max_milliseconds":1000,"first":"no"}]`,
		"kinds":                `{"get":{"requests":10000,"per_second":2000,"milliseconds":`,
		"over_time":            `[{"seconds":1,"requests":2000,"per_second":2000,"keys_per_second":2000,"errors":1,"milliseconds":` + latency + `},{"seconds":2,`,
		"percentiles":          `[{"percentile":0,"milliseconds":0},{"percentile":10,"milliseconds":0.2`,
	} {
		if !strings.HasPrefix(string(all[field]), want) {
			t.Errorf("%s is %s, want %s", field, all[field], want)
		}
		delete(all, field)
	}
	if len(all) > 0 {
		t.Errorf("there is more: %v", all)
	}
	empty, err := json.Marshal(newRecorder(1, time.Now()).result(&Config{}, time.Time{}, false))
	if err != nil || bytes.Contains(empty, []byte("null")) {
		t.Errorf("%s, %v", empty, err)
	}
}

// The picture is XML whatever its title, and everything lies inside it.
func TestResult_WriteSVG(t *testing.T) {
	empty := newRecorder(1, time.Now()).result(&Config{}, time.Time{}, false)
	for _, r := range []*Result{someResult(), empty} {
		var picture bytes.Buffer
		if err := r.WriteSVG(&picture, `<script>"&'`, "\x00 ünder"); err != nil {
			t.Fatal(err)
		}
		paths, texts := 0, ""
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
				if e.Name.Local == "path" {
					paths++
				}
				inside(t, e)
			case xml.CharData:
				texts += string(e)
			}
		}
		if !strings.Contains(texts, `<script>"&'`) || !strings.Contains(texts, "Answers per second") {
			t.Errorf("the texts are %s", texts)
		}
		if lines := strings.Count(texts, "99.9"); r != empty && (lines == 0 || paths < 20) {
			t.Errorf("%d paths and the texts %s", paths, texts)
		}
	}
	if err := empty.WriteSVG(brokenWriter{}, "", ""); err == nil {
		t.Error("the picture went nowhere, without an error")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// inside checks the coordinates of an element.
func inside(t *testing.T, e xml.StartElement) {
	t.Helper()
	for _, a := range e.Attr {
		if a.Name.Local != "d" && a.Name.Local != "x" && a.Name.Local != "y" {
			continue
		}
		for _, f := range strings.FieldsFunc(a.Value, func(r rune) bool { return strings.ContainsRune("MLHv ", r) }) {
			if n, err := strconv.ParseFloat(f, 64); err != nil || math.IsNaN(n) || n < 0 || n > chart.Width {
				t.Errorf("%s=%q", a.Name.Local, a.Value)
			}
		}
	}
}
