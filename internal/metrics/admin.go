package metrics

import "github.com/Focinfi/oncekv/client"

// Admin is what an admin measures.
type Admin struct{ node }

// NewAdmin makes an admin's metrics. figures is called once a scrape, by any
// goroutine; never before Handler is served.
func NewAdmin(name string, figures func() client.AdminStats) *Admin {
	a := &Admin{newNode("admin", name)}
	a.registry.MustRegister(&snapshot[client.AdminStats]{take: figures, figures: []figure[client.AdminStats]{
		gauge("admin_members", "Database nodes known.", func(n *client.AdminStats) float64 { return float64(n.Members) }),
		gauge("admin_caches", "Cache nodes known.", func(n *client.AdminStats) float64 { return float64(n.Caches) }),
		gauge("admin_down", "Nodes of both kinds that do not answer the admin and did not say goodbye.", func(n *client.AdminStats) float64 { return float64(n.Down) }),
		gauge("admin_ready", "1 once a database node has listed the nodes.", func(n *client.AdminStats) float64 { return truth(n.Ready) }),
		gauge("admin_uptime_seconds", "Time since the admin started.", func(n *client.AdminStats) float64 { return n.UptimeSeconds }),
	}})
	return a
}
