package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/client"
)

// completionTimeout is short: somebody is typing and waits for the shell.
const completionTimeout = 500 * time.Millisecond

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Write a completion script for a shell",
		Long: `Write a script that completes commands, flags and the names of members.

  bash        source <(oncekv completion bash)      needs the bash-completion package
  zsh         source <(oncekv completion zsh)       after autoload -U compinit; compinit
  fish        oncekv completion fish | source
  powershell  oncekv completion powershell | Out-String | Invoke-Expression

To have it in every new shell, add the line to the shell's startup file.`,
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			}
			return root.GenPowerShellCompletionWithDesc(a.stdout)
		},
	}
}

// completeMember completes the name of a member, if the cluster answers in time.
func (a *app) completeMember(c *clientFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if err := setFromEnvironment(cmd.Flags(), a.env); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		cl, err := c.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		return memberNames(ctx, cl), cobra.ShellCompDirectiveNoFileComp
	}
}

func memberNames(ctx context.Context, cl *client.Client) []cobra.Completion {
	members, err := cl.Members(ctx)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, m := range members.Members {
		if shown(m.Name) != m.Name {
			continue // a shell would misread it
		}
		names = append(names, cobra.CompletionWithDesc(m.Name, shown(m.Role+", "+m.ClientURL)))
	}
	return names
}
