// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/lab"
)

// benchFlags are those of every benchmark of loads.
type benchFlags struct {
	loads    []string
	rounds   int
	duration time.Duration
	quick    bool
	output   benchOutput
}

// What --quick stands for: all modes and loads within two minutes.
const (
	quickRounds   = 3
	quickDuration = 125 * time.Millisecond
	quickLimit    = 100 * time.Second // and the rest for what is checked and taken down after the rounds
)

func newBenchCommand() *cobra.Command {
	f := &benchFlags{}
	var modes []string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what the overlay costs, in every mode, on this machine",
		Long: "Makes two hosts out of network namespaces for each mode, with a container on each, and measures\n" +
			"the same loads in every mode: against netlink mode, and against no overlay at all. Modes take\n" +
			"turns round by round, processes are pinned, and the way that packets take is proved before and\n" +
			"after. Have the machine do nothing else meanwhile.\n\n" +
			"Between two hosts of yours: bench serve on one, bench run on the other.",
		Example: "  bpfnet bench --quick\n" +
			"  bpfnet bench --modes host,netlink-vxlan,ebpf-vxlan --loads udp_64,tcp_rr --rounds 9\n" +
			"  bpfnet bench -o table -o html=report.html",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := labNeeds(); err != nil {
				return err
			}
			o, err := f.options(cmd)
			if err != nil {
				return err
			}
			if o.Modes, err = bench.ModesNamed(modes); err != nil {
				return fmt.Errorf("--modes: %w", err)
			}
			return f.report(cmd, o, bench.Run)
		},
	}
	cmd.Flags().StringSliceVar(&modes, "modes", nil, "modes to measure (default all): "+namesOf(bench.Modes(), func(m bench.Mode) string { return m.Name }))
	f.register(cmd)
	cmd.AddCommand(newBenchAgentCommand(), newBenchServeCommand(), newBenchRunCommand(),
		newBenchControlCommand(), newBenchEtcdCommand())
	return cmd
}

func (f *benchFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.loads, "loads", nil, "loads to measure (default all): "+namesOf(bench.Loads(), func(l bench.Load) string { return l.Name }))
	flags.IntVar(&f.rounds, "rounds", 5, "how often to measure each load in each mode")
	flags.DurationVar(&f.duration, "duration", time.Second, "of each measurement")
	flags.BoolVar(&f.quick, "quick", false, fmt.Sprintf("under two minutes: --rounds %d, or as many as fit, --duration %v, unless they are given", quickRounds, quickDuration))
	f.output.register(flags)
}

func (f *benchFlags) options(cmd *cobra.Command) (o bench.Options, err error) {
	if f.quick && !cmd.Flags().Changed("rounds") {
		f.rounds = quickRounds
	}
	if f.quick && !cmd.Flags().Changed("duration") {
		f.duration = quickDuration
	}
	if f.quick && !cmd.Flags().Changed("rounds") && !cmd.Flags().Changed("duration") {
		o.Limit = quickLimit
	}
	o.Rounds, o.Duration = f.rounds, f.duration
	if o.Loads, err = bench.LoadsNamed(f.loads); err != nil {
		return o, fmt.Errorf("--loads: %w", err)
	}
	if o.Binary, err = os.Executable(); err != nil {
		return o, fmt.Errorf("find own binary: %w", err)
	}
	return o, o.Validate()
}

// report measures and writes what was measured.
func (f *benchFlags) report(cmd *cobra.Command, o bench.Options, run func(context.Context, bench.Options) (*bench.Report, error)) (err error) {
	if err = f.output.open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.output.close()) }()
	r, err := withProgress(cmd, func(ctx context.Context, show func(bench.Step)) (*bench.Report, error) {
		o.Progress = show
		return run(ctx, o)
	})
	if err != nil {
		return err
	}
	return f.output.write(cmd.OutOrStdout(), r)
}

// withProgress shows how far run is, and lets it clean up however it is interrupted.
func withProgress[R any](cmd *cobra.Command, run func(context.Context, func(bench.Step)) (R, error)) (R, error) {
	// A terminal that goes away is no reason not to clean up.
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
	defer stop()
	outliveReader()
	p := &progress{w: cmd.ErrOrStderr(), columns: columns(os.Stderr)}
	r, err := run(ctx, p.show)
	p.end()
	if err != nil && ctx.Err() != nil {
		err = interrupted(err)
	}
	return r, err
}

// interrupted is what is said of a run that was interrupted and ended in err. Whatever went wrong
// because it was is of no interest, what remains of it is.
func interrupted(err error) error {
	if errors.Is(err, lab.ErrLeft) {
		return fmt.Errorf("interrupted: %w", err)
	}
	return errors.New("interrupted, and all of it removed")
}
