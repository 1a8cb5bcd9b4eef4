// SPDX-License-Identifier: Apache-2.0

//go:build root

package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/bpfnet/bpfnet/test/lab"
)

func TestDemo(t *testing.T) {
	binary, err := built()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(*testing.T, string){
		"prints":      demoPrints,
		"interrupted": demoInterrupted,
		"after kill":  demoAfterKill,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, binary)
			nothingLeft(t)
		})
	}
}

// nothingLeft checks that no namespace and no state of the demo's lab is there. Other labs may be.
func nothingLeft(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/bpfnet-" + demoLab + "-*", "/run/bpfnet-lab/" + demoLab} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func demoPrints(t *testing.T, binary string) {
	out, err := exec.CommandContext(t.Context(), binary, "demo").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for pattern, want := range map[string]int{
		`8 of 8 answered`: 2,
		`(?m)^64 bytes from 172\.246\.0\.2: icmp_seq=\d ttl=62 time=\d+\.\d{3} ms$`: 2 * demoPings,
		`148 bytes, 50 of them added`: 1,
		`118 bytes, 20 of them added`: 1,
		`\d IP 192\.168\.32\.245\.\d+ > 192\.168\.32\.246\.8472: VXLAN, flags \[I\] \(0x08\), vni 1\n` +
			` +IP 172\.245\.0\.2 > 172\.246\.0\.2: ICMP echo request, id \d+, seq 1, length 64\n`: 1,
		`\(ipip-proto-4\)`: 1,
		`(?m)^  endpoints  172\.245\.0\.2 +→ vethc1, MAC`:         2,
		`(?m)^  routes +172\.246\.0\.0/24 → host 2$`:              2,
		`(?m)^  hosts +2 +→ 192\.168\.32\.246 by eth0, MTU`:       2,
		`(?m)^  h[12]  from_container +forward  encapsulated +4$`: 4,
		`(?m)^  h[12]  from_network +forward  delivered +4$`:      4,
		`\x1b`: 0, // colours are for terminals
	} {
		if got := len(regexp.MustCompile(pattern).FindAll(out, -1)); got != want {
			t.Errorf("%d matches of %s, want %d", got, pattern, want)
		}
	}
	for line := range strings.Lines(string(out)) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > demoWidth {
			t.Errorf("line of %d columns: %s", n, line)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// demoInterrupted: ctrl-c, and a terminal that goes away, at any time leave nothing behind.
func demoInterrupted(t *testing.T, binary string) {
	for _, after := range []string{"Two hosts,", "daemons are up", "icmp_seq=1", "── ipip"} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
			t.Run(after+" "+signal.String(), func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), binary, "demo")
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				var seen bytes.Buffer
				buf := make([]byte, 4096)
				for !strings.Contains(seen.String(), after) {
					n, err := out.Read(buf)
					if err != nil {
						t.Fatalf("%v after %s", err, &seen)
					}
					seen.Write(buf[:n])
				}
				if err := cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				if err := out.Close(); err != nil { // nobody reads any more, either
					t.Fatal(err)
				}
				if err := cmd.Wait(); err == nil || strings.Count(stderr.String(), "\n") != 1 {
					t.Errorf("ended with %v and %q, want a failure and one line", err, &stderr)
				}
				nothingLeft(t)
			})
		}
	}
}

// demoAfterKill: what a killed demo has left does not keep the next one
// from running, but a demo that runs does.
func demoAfterKill(t *testing.T, binary string) {
	first := exec.CommandContext(t.Context(), binary, "demo")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	err := lab.Until(t.Context(), "the first demo is up", func() (bool, error) {
		l, err := lab.Open(demoLab)
		return err == nil && len(l.Hosts) > 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary, "demo").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "lab is in use by process") {
		t.Errorf("second demo: %v: %s", err, out)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // by that signal
	if out, err := exec.CommandContext(t.Context(), binary, "demo").CombinedOutput(); err != nil {
		t.Errorf("demo after a killed one: %v: %s", err, out)
	}
}
