// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

// asAgent, in the environment, makes the test binary an agent.
const asAgent = "BPFNET_TEST_AGENT"

func TestMain(m *testing.M) {
	if role := os.Getenv(asAgent); role != "" {
		if err := Serve(os.Stdin, os.Stdout, role == "listener"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// startAgent starts an agent, which ends with the test.
func startAgent(t *testing.T, role string) *Agent {
	t.Helper()
	t.Setenv(asAgent, role)
	cmd := exec.Command("/proc/self/exe")
	a, err := Start(cmd, cmd.Start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}
