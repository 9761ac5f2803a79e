package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/Focinfi/oncekv/server"
)

// Ports of the local cluster without an offset: the first of three each, and the admin's.
const (
	devDatabasePort = 11000
	devPeerPort     = 12000
	devCachePort    = 5551
	devAdminPort    = 5546
	devNodes        = 3
)

// Some offsets would make two clusters overlap; they use other base ports. Modulo 100, the
// ports 0 to 2, 46 and 51 to 53 are taken, 30 to 32 are free.
const (
	// devPeerPortShifted is for the peers of every cluster with an offset: 12000 would be the
	// database port of a cluster whose offset is 1000 more.
	devPeerPortShifted = 12530
	// devDatabasePortAside is for the database nodes of the cluster with offset 1000, which
	// would use the peer ports of the cluster without an offset.
	devDatabasePortAside = 11030

	devOffsetMax = 65535 - devPeerPortShifted - devNodes + 1
)

// devPorts holds the ports of a local cluster: the first of three each, and the admin's.
type devPorts struct{ database, peer, cache, admin int }

func portsAt(offset int) devPorts {
	p := devPorts{devDatabasePort + offset, devPeerPort, devCachePort + offset, devAdminPort + offset}
	if offset != 0 {
		p.peer = devPeerPortShifted + offset
	}
	if gap := p.database - devPeerPort; -devNodes < gap && gap < devNodes {
		p.database = devDatabasePortAside + offset
	}
	return p
}

// peers lists the database nodes as they know one another.
func (p devPorts) peers() []server.Peer {
	var peers []server.Peer
	for i, name := range devNames() {
		peers = append(peers, server.Peer{Name: name, URL: "http://" + loopback(p.peer+i)})
	}
	return peers
}

// place is an address and who listens there.
type place struct{ addr, who string }

// places lists all addresses.
func (p devPorts) places() []place {
	var all []place
	for i := range devNodes {
		all = append(all, place{loopback(p.database + i), fmt.Sprintf("database node n%d", i+1)})
	}
	for i := range devNodes {
		all = append(all, place{loopback(p.peer + i), fmt.Sprintf("database node n%d, for its peers", i+1)})
	}
	for i := range devNodes {
		all = append(all, place{loopback(p.cache + i), fmt.Sprintf("cache node c%d", i+1)})
	}
	return append(all, place{loopback(p.admin), "the admin"})
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// taken lists the places at which somebody else listens.
func (p devPorts) taken() []place {
	return slices.DeleteFunc(p.places(), func(at place) bool {
		ln, err := net.Listen("tcp", at.addr)
		if err == nil {
			ln.Close()
		}
		return !errors.Is(err, syscall.EADDRINUSE)
	})
}

// keep takes the first peer port of existing data, zero for none.
func (p *devPorts) keep(peer int) {
	if peer != 0 {
		p.peer = peer
	}
}

// free returns an error that names the ports that are taken, and an offset with free ones.
func (p devPorts) free(d *devFlags) error {
	taken := p.taken()
	if len(taken) == 0 {
		return nil
	}
	var list []string
	for _, at := range taken {
		list = append(list, fmt.Sprintf("%s (%s)", at.addr, at.who))
	}
	origin := ""
	if p.peer != portsAt(d.portOffset).peer {
		origin = fmt.Sprintf(" (the peer ports, from %d on, are those of an earlier start: %s)", p.peer, devData{d.directory()}.peersFrom())
	}
	way := "stop it first"
	if n, ok := freeOffset(d.portOffset); ok {
		way = fmt.Sprintf("stop it, or run this one beside it with separate data: --port-offset %d", n)
		if d.dataDir != "" {
			way += ", and another --data-dir"
		}
	}
	return fmt.Errorf("another program listens on %s%s; is another local cluster running? %s", strings.Join(list, ", "), origin, way)
}

// freeOffset finds another offset whose ports are all free.
func freeOffset(given int) (int, bool) {
	for n := 1000; n <= devOffsetMax; n += 1000 {
		if n != given && len(portsAt(n).taken()) == 0 {
			return n, true
		}
	}
	return 0, false
}
