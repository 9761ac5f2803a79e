package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/raftnode"
	"github.com/Focinfi/oncekv/server"
)

// serveFlags are the flags of a database node.
type serveFlags struct {
	server.DatabaseConfig
	initialCluster   []string
	force            forceWord
	maxValueBytes    byteSize
	diskReserveBytes byteSize
	snapshotLogBytes byteSize
	scrub            scrubFlags
	log              logFlags
}

func (a *app) serveCommand() *cobra.Command {
	s := &serveFlags{maxValueBytes: 1 << 30, diskReserveBytes: server.DefaultDiskReserveBytes, snapshotLogBytes: server.DefaultSnapshotLogBytes}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a database node",
		Long: `Run a database node.

Without flags it is a cluster of one node with its data in ./data/n1. To start a
cluster of several nodes, give the same --initial-cluster to each; they wait for one
another. A node with --join asks a running cluster to add it, and gets a vote when it
has caught up. If the node has data already, both flags are ignored.`,
		Example: `  oncekv serve
  oncekv serve --name n1 --listen 10.0.0.1:11000 --peer-listen 10.0.0.1:12000 \
    --initial-cluster n1=http://10.0.0.1:12000,n2=http://10.0.0.2:12000,n3=http://10.0.0.3:12000
  oncekv serve --name n4 --listen 10.0.0.4:11000 --peer-listen 10.0.0.4:12000 --join http://10.0.0.1:11000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), s) },
	}
	f := cmd.Flags()
	f.StringVar(&s.Name, "name", "n1", "name of the node, unique in the cluster")
	f.StringVar(&s.DataDir, "data-dir", "", "directory for the node's data (default ./data/NAME)")
	f.StringVar(&s.Listen, "listen", "127.0.0.1:11000", "address to listen on for clients")
	f.StringVar(&s.PeerListen, "peer-listen", "127.0.0.1:12000", "address to listen on for the other database nodes")
	f.StringVar(&s.Advertise, "advertise", "", "URL at which clients reach this node, if it differs from --listen")
	f.StringVar(&s.PeerAdvertise, "peer-advertise", "", "URL at which database nodes reach this node, if it differs from --peer-listen")
	f.StringSliceVar(&s.initialCluster, "initial-cluster", nil, "all nodes of a new cluster, including this one, as name=peer-URL")
	f.StringSliceVar(&s.Join, "join", nil, "nodes of the cluster to join, by client URL or host:port")
	f.BoolVar(&s.Learner, "learner", false, "join as a learner, which never gets a vote")
	f.Var(&s.force, "force-new-cluster", "make this node a cluster of its own with the data it has; only for when a majority is permanently lost. This is done once; to do it again, give a new word, such as AGAIN-2")
	f.Lookup("force-new-cluster").NoOptDefVal = raftnode.ForceOnce
	a.yesFlag(f, "--force-new-cluster")
	f.Var(&s.maxValueBytes, "max-value-bytes", "largest value accepted")
	f.Var(&s.diskReserveBytes, "disk-reserve-bytes", "refuse puts while less disk space than this is free; 0 for no reserve")
	f.Var(&s.snapshotLogBytes, "snapshot-log-bytes", "size of the log between two snapshots; the log before a snapshot is removed")
	s.scrub.register(f)
	f.IntVar(&s.MaxConnections, "max-connections", 0, "limit of open client connections; above it, idle ones are closed, then new ones are refused (default 16384, or about half of the open files allowed)")
	registerAllowedHosts(f, &s.AllowedHosts)
	s.log.register(f, 0)
	return cmd
}

func (a *app) serve(ctx context.Context, s *serveFlags) error {
	if err := s.complete(); err != nil {
		return err
	}
	if s.ForceNewCluster != "" {
		if err := a.confirm(ctx, forceQuestion(s.Name), s.Name); err != nil {
			return err
		}
	}
	s.Logger = a.logger(s.log)
	moreProcessors()
	db, err := server.StartDatabase(ctx, s.DatabaseConfig)
	if err != nil {
		return startError(ctx, databaseNode+s.Name, err)
	}
	a.tellPlaces(s.Logger, databaseNode+s.Name, slog.String("clients", db.URL()), slog.String("peers", db.PeerURL()), slog.String("data", s.DataDir))
	return a.supervise(ctx, namedNode{"database node " + s.Name, db})
}

// complete checks the flags and fills in the values that depend on others.
func (s *serveFlags) complete() error {
	var err error
	if s.InitialCluster, err = parseCluster(s.initialCluster); err != nil {
		return err
	}
	addSchemes(s.Join)
	s.ForceNewCluster = string(s.force)
	s.DataDir = cmp.Or(s.DataDir, filepath.Join("data", s.Name))
	s.MaxValueBytes, s.SnapshotLogBytes = int64(s.maxValueBytes), int64(s.snapshotLogBytes)
	s.DiskReserveBytes = cmp.Or(int64(s.diskReserveBytes), -1) // zero would be the default
	if s.ScrubInterval, err = s.scrub.value(); err != nil {
		return err
	}
	if err := atLeastOne("max-value-bytes", s.maxValueBytes); err != nil { // zero would be the default
		return err
	}
	if err := atLeastOne("snapshot-log-bytes", s.snapshotLogBytes); err != nil {
		return err
	}
	return s.Check()
}

func forceQuestion(name string) string {
	return fmt.Sprintf(`Node %s will become a cluster of its own with the data it has. Everything that the
other nodes acknowledged but did not send here is lost. None of them may serve its old
data again: they refuse to as soon as they reach this node.`, name)
}

// startError returns nil if the start was told to stop.
func startError(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return fmt.Errorf("start %s: %w", name, err)
}

// processorsMax bounds moreProcessors.
const processorsMax = 32

// moreProcessors lets a database node run more goroutines at once than there are processors,
// unless GOMAXPROCS is set. The stores are mapped into memory: a goroutine that reads a page
// from disk waits inside an instruction, and no system call tells the runtime that its place
// is free meanwhile. With only as many places as processors, that many reads stop everything
// else. (Two processors, three million keys: random GETs reach 0.55 of the rate of GETs of one
// key with 2 places, 0.64 with 8; puts and other GETs are the same.)
func moreProcessors() {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	runtime.GOMAXPROCS(places(runtime.GOMAXPROCS(0)))
}

// places returns how many goroutines may run at once on so many processors.
func places(processors int) int { return max(processors, min(4*processors, processorsMax)) }
