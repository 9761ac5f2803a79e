package clustertest

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Metrics returns the node's metrics without labels. It uses its own connection.
func (n *Process) Metrics() (map[string]float64, error) {
	hc := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := hc.Get(n.URL() + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errorf("/metrics of %s answered %s", n.Name, resp.Status)
	}
	figures := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil && !strings.ContainsAny(name, "#{") {
			figures[name] = v
		}
	}
	return figures, lines.Err()
}

// Descriptors returns how many files and sockets the process has open. It needs Linux.
func (n *Process) Descriptors() (int, error) {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.cmd.Process.Pid))
	return len(open), err
}

// LogPath is the file with the process's output since its latest start.
func (n *Process) LogPath() string { return n.log.Name() }
