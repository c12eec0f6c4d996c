package main

import (
	"bufio"
	"os"

	"github.com/spf13/cobra"

	"kbus.internal/bench"
)

func benchReportCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "report DIR",
		Short: "Make a page of results",
		Long: `Make one HTML page of all results in a directory: files named *.json, as
kbus bench --json, kbus bench peers --json, or one of the workloads wrote them. The
page needs a browser and nothing else, no network either.`,
		Example: `  kbus bench --json >results/today.json
  kbus bench peers --json >results/today-peers.json
  kbus bench report results --output report.html`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			to := cmd.OutOrStdout()
			if output != "" {
				f, err := os.Create(output)
				if err != nil {
					return err
				}
				defer f.Close()
				to = f
			}
			w := bufio.NewWriter(to)
			if err := bench.WritePage(w, args[0]); err != nil {
				return err
			}
			return w.Flush()
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` for the page (default: standard output)")
	_ = cmd.MarkFlagFilename("output", "html")
	return cmd
}
