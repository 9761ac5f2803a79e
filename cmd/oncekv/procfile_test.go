package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The Procfile and dev run the same cluster with the same ports and data, so that either can
// follow the other.
func TestProcfile_SameAsDev(t *testing.T) {
	var want strings.Builder
	peers := portsAt(0).peers()
	var cluster, nodes []string
	for i, p := range peers {
		cluster = append(cluster, p.Name+"="+p.URL)
		nodes = append(nodes, "http://"+loopback(devDatabasePort+i))
	}
	for i, p := range peers {
		fmt.Fprintf(&want, "%s: ./bin/oncekv serve --name %s --listen %s --peer-listen %s --initial-cluster %s\n",
			p.Name, p.Name, loopback(devDatabasePort+i), loopback(devPeerPort+i), strings.Join(cluster, ","))
	}
	for i := range devNodes {
		fmt.Fprintf(&want, "c%d: ./bin/oncekv cache --name c%d --listen %s --nodes %s\n", i+1, i+1, loopback(devCachePort+i), strings.Join(nodes, ","))
	}
	fmt.Fprintf(&want, "admin: ./bin/oncekv admin --listen %s --nodes %s\n", loopback(devAdminPort), strings.Join(nodes, ","))
	got, err := os.ReadFile("../../Procfile")
	must(t, err)
	if string(got) != want.String() {
		t.Errorf("Procfile:\n%s\nwant:\n%s", got, want.String())
	}
}
