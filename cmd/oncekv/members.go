package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

func (a *app) membersCommand() *cobra.Command {
	c := &clientFlags{}
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List and change the database nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(c, func(cl *client.Client) error { return a.listMembers(cmd, cl) })
		},
	}
	c.register(a, cmd.PersistentFlags(), 30*time.Second)
	a.jsonFlag(cmd.PersistentFlags())
	cmd.AddCommand(a.membersList(c), a.membersAdd(c), a.membersRemove(c), a.membersPromote(c), a.membersLeader(c))
	return cmd
}

func (a *app) withClient(c *clientFlags, do func(*client.Client) error) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	return do(cl)
}

func (a *app) membersList(c *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the database nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(c, func(cl *client.Client) error { return a.listMembers(cmd, cl) })
		},
	}
}

func (a *app) listMembers(cmd *cobra.Command, cl *client.Client) error {
	members, err := cl.Members(cmd.Context())
	if err != nil {
		return err
	}
	if members.Stale {
		fmt.Fprintln(a.stderr, "There is no quorum. The node that answered shows what it knows.")
	}
	if a.json {
		return writeJSON(a.stdout, members)
	}
	return writeMembers(a.stdout, members)
}

func writeMembers(w io.Writer, members api.Members) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	slices.SortFunc(members.Members, func(a, b api.Member) int { return strings.Compare(a.Name, b.Name) })
	fmt.Fprintln(t, "NAME\tROLE\tHEALTHY\tAPPLIED\tREVISION\tCLIENT URL\tPEER URL\tID")
	for _, m := range members.Members {
		fmt.Fprintf(t, "%s\t%s\t%t\t%d\t%d\t%s\t%s\t%s\n", shown(m.Name), shown(m.Role), m.Healthy, m.AppliedIndex, m.Revision, shown(m.ClientURL), shown(m.PeerURL), shown(m.ID))
	}
	return t.Flush()
}

func (a *app) membersAdd(c *clientFlags) *cobra.Command {
	var m api.AddMember
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a database node (serve --join does this by itself)",
		Long: `Add a database node to the cluster. A node started with serve --join does this by
itself; do it by hand only if the node cannot reach the client addresses of the
cluster. --id is the id of the node, which its log and its /stats show. --level is the
highest level that its program knows, which oncekv version shows on that machine.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.Name = args[0]
			return a.withClient(c, func(cl *client.Client) error { return a.addMember(cmd, cl, m) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&m.ID, "id", "", "id of the node, in hex digits")
	f.StringVar(&m.PeerURL, "peer-url", "", "URL at which database nodes reach it")
	f.StringVar(&m.ClientURL, "client-url", "", "URL at which clients reach it")
	f.Uint64Var(&m.Level, "level", 1, "highest level that the node's program knows")
	f.StringVar(&m.Role, "role", api.RoleVoter, "voter: gets a vote when it has caught up; learner: never gets a vote")
	return cmd
}

func (a *app) addMember(cmd *cobra.Command, cl *client.Client, m api.AddMember) error {
	if m.PeerURL == "" || m.ClientURL == "" {
		return usageErrorf("--peer-url and --client-url are required")
	}
	if err := checkMemberURL("peer-url", m.PeerURL); err != nil {
		return err
	}
	if err := checkMemberURL("client-url", m.ClientURL); err != nil {
		return err
	}
	if m.Role != api.RoleVoter && m.Role != api.RoleLearner {
		return usageErrorf("--role %q is neither voter nor learner", m.Role)
	}
	if m.Level == 0 {
		return usageErrorf("--level must be at least 1")
	}
	added, isNew, err := cl.AddMember(cmd.Context(), m)
	if err != nil {
		return err
	}
	if a.json {
		return withoutReaderGone(writeJSON(a.stdout, added))
	}
	if !isNew {
		return withoutReaderGone(a.say("%s is a member already, as %s", shown(added.Name), shown(added.Role)))
	}
	return withoutReaderGone(a.say("added %s as %s", shown(added.Name), shown(added.Role)))
}

func (a *app) membersRemove(c *clientFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a database node permanently",
		Long: `Remove a database node. Its name can be used again, its data cannot. The removal is
refused if the remaining nodes would have no majority, unless --force is given. The
command asks first; without a terminal it needs --yes.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeMember(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(c, func(cl *client.Client) error {
				if err := a.confirm(cmd.Context(), removeQuestion(args[0], force), args[0]); err != nil {
					return err
				}
				return a.changed(cl.RemoveMember(cmd.Context(), args[0], force), "removed", args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove it even if the remaining nodes have no majority")
	a.yesFlag(cmd.Flags(), "the removal")
	return cmd
}

func removeQuestion(name string, force bool) string {
	text := fmt.Sprintf("Node %s will be removed from the cluster permanently: it stops, and its data cannot be used again.", shown(name))
	if force {
		text += "\nWith --force this is done even if the remaining nodes have no majority; then no key can be set any more."
	}
	return text
}

func (a *app) membersPromote(c *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "promote NAME",
		Short:             "Give a learner a vote",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeMember(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(c, func(cl *client.Client) error {
				return a.changed(cl.PromoteMember(cmd.Context(), args[0]), "promoted", args[0])
			})
		},
	}
}

func (a *app) membersLeader(c *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "leader [NAME]",
		Aliases:           []string{"transfer"},
		Short:             "Show the leader, or make NAME the leader",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeMember(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && cmd.CalledAs() == "transfer" {
				return usageErrorf("no node is given: name the node that is to lead")
			}
			return a.withClient(c, func(cl *client.Client) error {
				if len(args) == 0 {
					return a.nameLeader(cmd, cl)
				}
				return a.changed(cl.TransferLeader(cmd.Context(), args[0]), "the leader is now", args[0])
			})
		},
	}
}

func (a *app) nameLeader(cmd *cobra.Command, cl *client.Client) error {
	members, err := cl.Members(cmd.Context())
	switch {
	case err != nil:
		return err
	case members.Leader == "":
		return fmt.Errorf("no leader is known: %w", api.ErrUnavailable)
	case a.json:
		return writeJSON(a.stdout, map[string]any{"leader": members.Leader, "term": members.Term})
	}
	return a.say("%s", shown(members.Leader))
}

// changed shows that a change of the cluster succeeded, or returns err.
func (a *app) changed(err error, what, name string) error {
	switch {
	case err != nil:
		return err
	case a.json:
		return withoutReaderGone(writeJSON(a.stdout, map[string]string{"done": what, "name": name}))
	}
	return withoutReaderGone(a.say("%s %s", what, shown(name)))
}

func (a *app) say(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stdout, format+"\n", args...)
	return err
}
