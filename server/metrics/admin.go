package metrics

import "github.com/Focinfi/oncekv/api"

// Admin holds an admin's metrics.
type Admin struct{ node }

// NewAdmin makes an admin's metrics. Every scrape calls stats once, from any goroutine,
// but not before Handler is served.
func NewAdmin(name string, stats func() api.AdminStats) *Admin {
	a := &Admin{newNode("admin", name)}
	a.registry.MustRegister(&snapshot[api.AdminStats]{take: stats, metrics: []metric[api.AdminStats]{
		gauge("admin_members", "Database nodes known.", func(n *api.AdminStats) float64 { return float64(n.Members) }),
		gauge("admin_caches", "Cache nodes known.", func(n *api.AdminStats) float64 { return float64(n.Caches) }),
		gauge("admin_down", "Nodes of both kinds that do not answer the admin and did not say goodbye.", func(n *api.AdminStats) float64 { return float64(n.Down) }),
		gauge("admin_ready", "1 once a database node has listed the nodes.", func(n *api.AdminStats) float64 { return truth(n.Ready) }),
		gauge("admin_uptime_seconds", "Time since the admin started.", func(n *api.AdminStats) float64 { return n.UptimeSeconds }),
	}})
	return a
}
