package metrics

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/Focinfi/oncekv/internal/version"
)

const namespace = "oncekv"

// node holds the metrics of every kind of node.
type node struct {
	registry *prometheus.Registry

	Traffic *Traffic
}

// newNode makes a registry with the common metrics. kind is "database", "cache" or "admin".
func newNode(kind, name string) node {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the labels name the node and the version of its program.",
		ConstLabels: prometheus.Labels{"version": version.String(), "go_version": runtime.Version(), "kind": kind, "node": name},
	})
	build.Set(1)
	r.MustRegister(build)
	return node{registry: r, Traffic: newTraffic(r)}
}

// Handler answers scrapes. If a metric fails, the answer leaves it out and shows the rest.
func (n *node) Handler() http.Handler {
	return promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true})
}

// metric describes a metric that is read from a T at each scrape.
type metric[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	label string // value of the one label, if there is one
	value func(*T) float64
}

// gauge describes a number that may fall.
func gauge[T any](name, help string, value func(*T) float64) metric[T] {
	return metric[T]{desc: describe(name, help), kind: prometheus.GaugeValue, value: value}
}

// counter describes a number that only grows.
func counter[T any](name, help string, value func(*T) float64) metric[T] {
	return metric[T]{desc: describe(name, help), kind: prometheus.CounterValue, value: value}
}

// labelled describes metrics that differ in one label.
func labelled[T any](kind prometheus.ValueType, name, help, label string, values ...labelValue[T]) []metric[T] {
	desc := describe(name, help, label)
	all := make([]metric[T], 0, len(values))
	for _, v := range values {
		all = append(all, metric[T]{desc: desc, kind: kind, label: v.label, value: v.value})
	}
	return all
}

type labelValue[T any] struct {
	label string
	value func(*T) float64
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// snapshot is a collector that reads a T once a scrape and shows its metrics.
type snapshot[T any] struct {
	take    func() T
	metrics []metric[T]
}

// Describe implements prometheus.Collector.
func (s *snapshot[T]) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range s.metrics {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (s *snapshot[T]) Collect(ch chan<- prometheus.Metric) {
	now := s.take()
	for _, f := range s.metrics {
		var labels []string
		if f.label != "" {
			labels = []string{f.label}
		}
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(&now), labels...)
	}
}

// truth returns a bool as a gauge shows it.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
