package server

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/Focinfi/oncekv/internal/hosts"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/raftnode"
)

// SettingError is a setting with which a node will never work, however often it is started.
// It names the flag of the command line.
type SettingError struct {
	Flag string
	Err  error
}

// Error names the flag and the cause.
func (e *SettingError) Error() string { return fmt.Sprintf("--%s: %v", e.Flag, e.Err) }

// Unwrap returns the cause.
func (e *SettingError) Unwrap() error { return e.Err }

func setting(flag, format string, args ...any) error {
	return &SettingError{flag, fmt.Errorf(format, args...)}
}

// firstError returns the error of the first check that fails.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// bytesMax bounds sizes, so that sums of a few of them do not overflow.
const bytesMax = 1 << 60

func checkBytes(flag string, n int64) error {
	if n > bytesMax {
		return setting(flag, "%d bytes are more than any machine has: use at most 1024PiB", n)
	}
	return nil
}

// checkAtLeastZero checks a setting whose zero means the default.
func checkAtLeastZero(flag string, n int64) error {
	if n < 0 {
		return setting(flag, "it is %d, and must not be negative", n)
	}
	return checkBytes(flag, n)
}

// CheckScrubInterval returns a *SettingError for an interval that ScrubInterval rejects.
func CheckScrubInterval(interval time.Duration) error {
	if interval > 0 && interval < scrubIntervalMin {
		return setting("scrub-interval", "%v is too short: a node would do nothing but read its files; use at least %v, or 0 for never", interval, scrubIntervalMin)
	}
	return nil
}

func checkName(name string) error {
	if err := nodeurl.CheckName(name); err != nil {
		return &SettingError{"name", err}
	}
	return nil
}

// CheckAllowedHosts returns a *SettingError for names that AllowedHosts rejects.
func CheckAllowedHosts(names []string) error {
	if _, err := hosts.New(hosts.Config{Allowed: names}); err != nil {
		return &SettingError{"allowed-hosts", err}
	}
	return nil
}

func checkListen(flag, listen string) error {
	if _, _, err := nodeurl.SplitListen(listen); err != nil {
		return &SettingError{flag, err}
	}
	return nil
}

// nodeURLs checks the URLs of a flag and returns them in canonical form.
func nodeURLs(flag string, urls []string) ([]string, error) {
	checked := make([]string, len(urls))
	for i, u := range urls {
		var err error
		if checked[i], err = nodeurl.Parse(u); err != nil {
			return nil, &SettingError{flag, err}
		}
	}
	return checked, nil
}

// seeds checks the URLs of the first database nodes to ask.
func seeds(urls []string) ([]string, error) {
	if len(urls) == 0 {
		return nil, setting("nodes", "it names no database node: give the client URL of one at least, such as http://127.0.0.1:11000")
	}
	return nodeURLs("nodes", urls)
}

// address is the configuration of a listener, with the names of its flags.
type address struct {
	flag, listen           string
	advertiseFlag, advised string
}

// checked returns the URL that others connect to. It is empty if only the bound listener
// knows it, that is, for an address without wildcard, whose port may be 0.
func (a address) checked() (url string, err error) {
	if err := checkListen(a.flag, a.listen); err != nil {
		return "", err
	}
	if a.advised != "" {
		if url, err = nodeurl.WithPort(a.advised); err != nil {
			return "", &SettingError{a.advertiseFlag, err}
		}
		return url, nil
	}
	host, _, _ := nodeurl.SplitListen(a.listen)
	if nodeurl.Wildcard(host) {
		return "", setting(a.flag, "%q means every interface; give the URL at which others reach this node with --%s URL", a.listen, a.advertiseFlag)
	}
	if _, err := nodeurl.Parse("http://" + net.JoinHostPort(host, "1")); err != nil {
		return "", setting(a.flag, "others cannot be told to connect to %q; give the URL at which they reach this node with --%s URL", a.listen, a.advertiseFlag)
	}
	return "", nil
}

// urlAt returns the URL of an address; empty for a free port or a wildcard.
func urlAt(listen string) string {
	host, port, err := nodeurl.SplitListen(listen)
	if err != nil || port == 0 || nodeurl.Wildcard(host) {
		return ""
	}
	url, _ := nodeurl.Parse("http://" + net.JoinHostPort(host, strconv.Itoa(int(port))))
	return url
}

// Check returns a *SettingError for a configuration that cannot work. StartDatabase does
// the same; call Check first if you have to ask a person before the start.
func (cfg DatabaseConfig) Check() error {
	_, err := cfg.checked()
	return err
}

// checked returns the configuration with every URL in canonical form. If the data already
// belongs to a cluster, it drops the settings with which a new one begins. An empty peer
// URL then means that the cluster keeps the URL it knows.
func (cfg DatabaseConfig) checked() (DatabaseConfig, error) {
	err := firstError(
		checkName(cfg.Name),
		checkAtLeastZero("max-connections", int64(cfg.MaxConnections)),
		checkAtLeastZero("max-value-bytes", cfg.MaxValueBytes),
		checkAtLeastZero("snapshot-log-bytes", cfg.SnapshotLogBytes),
		checkBytes("disk-reserve-bytes", cfg.DiskReserveBytes),
		CheckScrubInterval(cfg.ScrubInterval),
		checkListen("peer-listen", cfg.PeerListen),
		CheckAllowedHosts(cfg.AllowedHosts),
	)
	if err != nil {
		return cfg, err
	}
	if cfg.DataDir == "" {
		return cfg, setting("data-dir", "it is empty: name a directory")
	}
	if cfg.Listen == cfg.PeerListen && urlAt(cfg.Listen) != "" {
		return cfg, setting("peer-listen", "%q is the address of --listen: clients and database nodes need one each", cfg.PeerListen)
	}
	if cfg.Advertise, err = (address{"listen", cfg.Listen, "advertise", cfg.Advertise}).checked(); err != nil {
		return cfg, err
	}
	if err := firstError(cfg.checkForce(), cfg.checkBeginning()); err != nil {
		return cfg, err
	}
	return cfg, cfg.choosePeerURL()
}

// own returns where clients connect, if that is known before the listener is bound.
func (cfg *DatabaseConfig) own() string {
	if cfg.Advertise != "" {
		return cfg.Advertise
	}
	return urlAt(cfg.Listen)
}

// checkBeginning checks how a node without data begins, and clears these settings for a
// node with data.
func (cfg *DatabaseConfig) checkBeginning() (err error) {
	switch {
	case len(cfg.InitialCluster) > 0 && len(cfg.Join) > 0:
		return setting("join", "it joins a cluster, but --initial-cluster starts a new one: give only one of them")
	case cfg.Learner && len(cfg.Join) == 0:
		return setting("learner", "it is only for --join: a node that starts a cluster has a vote")
	}
	if cfg.InitialCluster, err = raftnode.CheckPeers(cfg.InitialCluster); err != nil {
		return &SettingError{"initial-cluster", err}
	}
	if cfg.Join, err = nodeURLs("join", cfg.Join); err != nil {
		return err
	}
	if cfg.belongs() {
		cfg.InitialCluster, cfg.Join, cfg.Learner = nil, nil, false
	}
	if own := cfg.own(); len(cfg.Join) == 1 && cfg.Join[0] == own {
		return setting("join", "%s is this node itself: give the client URL of a node of the cluster to join", own)
	}
	return nil
}

// checkForce checks that a new cluster is forced with a word that the data has not seen
// yet.
func (cfg *DatabaseConfig) checkForce() error {
	word := cfg.ForceNewCluster
	if word == "" {
		return nil
	}
	return forceSetting(firstError(raftnode.CheckForceWord(word), raftnode.CheckForce(cfg.DataDir, word)))
}

// forceSetting turns a refusal to force a new cluster into a *SettingError: a supervisor
// must not restart the node until it works.
func forceSetting(err error) error {
	var refused *raftnode.ForceError
	if !errors.As(err, &refused) {
		return err
	}
	return &SettingError{"force-new-cluster", refused}
}

// belongs reports whether the data belongs to a cluster. raftnode reports a directory that
// cannot be read.
func (cfg *DatabaseConfig) belongs() bool {
	belongs, err := raftnode.Belongs(cfg.DataDir)
	return belongs || err != nil
}

// choosePeerURL decides where other database nodes connect: at --peer-advertise, else as
// the list of a new cluster says, else at the listen address.
func (cfg *DatabaseConfig) choosePeerURL() error {
	peer := address{"peer-listen", cfg.PeerListen, "peer-advertise", cfg.PeerAdvertise}
	source := "peer-advertise"
	if listed, found := cfg.listed(); found {
		if peer.advised == "" {
			peer.advised, source = listed, "initial-cluster"
		} else if url, err := nodeurl.WithPort(peer.advised); err == nil && url != listed {
			return setting("initial-cluster", "it says that %s is reached at %s, but --peer-advertise says %s", cfg.Name, listed, url)
		}
	} else if len(cfg.InitialCluster) > 0 {
		return setting("initial-cluster", "it does not name this node, %s; it lists all nodes of the new cluster, this one included", cfg.Name)
	}
	url, err := peer.checked()
	if host, _, _ := nodeurl.SplitListen(cfg.PeerListen); err != nil && peer.advised == "" && nodeurl.Wildcard(host) && cfg.belongs() {
		url, err = "", nil
	}
	if err != nil {
		return err
	}
	if own := cfg.own(); own != "" && own == cmp.Or(url, urlAt(cfg.PeerListen)) {
		if url == "" {
			return setting("advertise", "%s is where database nodes reach this one: give the URL of --listen, such as http://127.0.0.1:11000", own)
		}
		return setting(source, "%s is where clients reach this node: give the URL of --peer-listen, such as http://127.0.0.1:12000", own)
	}
	cfg.PeerAdvertise = url
	return nil
}

// listed returns this node's URL in the list of a new cluster.
func (cfg *DatabaseConfig) listed() (url string, found bool) {
	for _, p := range cfg.InitialCluster {
		if p.Name == cfg.Name {
			return p.URL, true
		}
	}
	return "", false
}

// Check returns a *SettingError for a configuration that cannot work.
func (cfg CacheConfig) Check() error {
	_, err := cfg.checked()
	return err
}

func (cfg CacheConfig) checked() (CacheConfig, error) {
	err := firstError(
		checkName(cfg.Name),
		checkAtLeastZero("max-connections", int64(cfg.MaxConnections)),
		checkAtLeastZero("cache-bytes", cfg.CacheBytes),
		CheckAllowedHosts(cfg.AllowedHosts),
	)
	if err != nil {
		return cfg, err
	}
	if cfg.Advertise, err = (address{"listen", cfg.Listen, "advertise", cfg.Advertise}).checked(); err != nil {
		return cfg, err
	}
	cfg.Nodes, err = seeds(cfg.Nodes)
	return cfg, err
}

// Check returns a *SettingError for a configuration that cannot work.
func (cfg AdminConfig) Check() error {
	_, err := cfg.checked()
	return err
}

func (cfg AdminConfig) checked() (AdminConfig, error) {
	err := firstError(
		checkListen("listen", cfg.Listen),
		checkAtLeastZero("max-connections", int64(cfg.MaxConnections)),
		CheckAllowedHosts(cfg.AllowedHosts),
	)
	if err != nil {
		return cfg, err
	}
	cfg.Nodes, err = seeds(cfg.Nodes)
	return cfg, err
}

// listenError makes a host name without an address an error of the setting. Other errors stay
// as they are: the next start may succeed.
func listenError(flag string, err error) error {
	var name *net.DNSError
	if errors.As(err, &name) && name.IsNotFound {
		return setting(flag, "no address is known for the host %s: write host:port with an address of this machine, such as 127.0.0.1:11000", name.Name)
	}
	return err
}
