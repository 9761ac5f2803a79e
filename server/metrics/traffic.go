package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/Focinfi/oncekv/httpapi"
)

// Traffic measures HTTP requests.
type Traffic struct {
	inFlight  prometheus.Gauge
	durations *prometheus.HistogramVec
}

var _ httpapi.Traffic = (*Traffic)(nil)

// answerBuckets returns bounds in seconds: a get from memory takes some 50 µs, a put one or
// two fsyncs, and DefaultAnswerTimeout is 10 s.
func answerBuckets() []float64 {
	return []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

func newTraffic(r *prometheus.Registry) *Traffic {
	t := &Traffic{
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "http_requests_in_flight", Help: "Requests that are being answered now.",
		}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "http_request_duration_seconds", Buckets: answerBuckets(),
			Help: "Time from a request's header to its answer's end, body included, by route, method and class of status; code aborted: the answer was broken off.",
		}, []string{"route", "method", "code"}),
	}
	r.MustRegister(t.inFlight, t.durations)
	return t
}

// classes are the values of the label code, by status/100.
func classes() [6]string { return [6]string{"aborted", "1xx", "2xx", "3xx", "4xx", "5xx"} }

// Route implements httpapi.Traffic. It makes a series when its first request ends; later
// requests find it without a search.
func (t *Traffic) Route(method, pattern string) func(status int, took time.Duration) {
	names := classes()
	var series [len(names)]atomic.Pointer[prometheus.Observer]
	return func(status int, took time.Duration) {
		class := status / 100
		if class < 0 || class >= len(names) {
			class = 5
		}
		o := series[class].Load()
		if o == nil {
			made := t.durations.WithLabelValues(pattern, method, names[class])
			o = &made
			series[class].Store(o) // a concurrent call made the same one
		}
		(*o).Observe(took.Seconds())
	}
}

// InFlight implements httpapi.Traffic.
func (t *Traffic) InFlight(change int) { t.inFlight.Add(float64(change)) }

// Connections describes the connections of a node's public listener.
type Connections struct {
	Open, Limit            int
	Refused, ClosedForRoom uint64
}

// Watch shows a listener's connections.
func (n *node) Watch(take func() Connections) {
	type f = Connections
	n.registry.MustRegister(&snapshot[f]{take: take, metrics: []metric[f]{
		gauge("http_connections", "Connections of clients that are open.", func(c *f) float64 { return float64(c.Open) }),
		gauge("http_connections_limit", "Limit of oncekv_http_connections.", func(c *f) float64 { return float64(c.Limit) }),
		counter("http_connections_refused_total", "Connections refused because all others, or all others of the same address, were busy.", func(c *f) float64 { return float64(c.Refused) }),
		counter("http_connections_closed_for_room_total", "Idle connections closed to make room for new ones.", func(c *f) float64 { return float64(c.ClosedForRoom) }),
	}})
}
