// SPDX-License-Identifier: Apache-2.0

// Command bpfnet joins the containers of many hosts into one network, with
// eBPF doing the packet work.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	root := newRootCommand()
	root.SetArgs(arguments(os.Args))
	err := root.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bpfnet:", err)
		os.Exit(1)
	}
}
