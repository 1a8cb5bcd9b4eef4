// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/controlplane/node"
)

var testStatus = node.Status{
	Ready: true, Node: netip.MustParseAddr("192.168.32.245"), Subnet: netip.MustParsePrefix("172.245.0.0/24"),
	Network: netip.MustParsePrefix("172.244.0.0/14"), Backend: "vxlan", MTU: 1450, Dataplane: node.EBPF,
	Revision: 42, Containers: 2, Endpoints: 1,
	Peers: []node.PeerStatus{
		{
			Lease: "172.246.0.0-24", Subnet: netip.MustParsePrefix("172.246.0.0/24"), Node: netip.MustParseAddr("192.168.32.246"),
			Encap: "vxlan", NextHop: netip.MustParseAddr("192.168.32.1"), VTEPMAC: "c6:00:00:00:02:00",
		},
		{
			Lease: "172.247.0.0-24", Subnet: netip.MustParsePrefix("172.247.0.0/24"), Node: netip.MustParseAddr("192.168.32.247"),
			Encap: "host-gw", NextHop: netip.MustParseAddr("192.168.32.247"),
		},
	},
	Problems: []node.Problem{
		{Source: "etcd", Key: "172.247.1.0-24", Text: "has no VtepMAC; not served"},
		{Source: "session", Text: "no etcd"},
	},
}

const testStatusTable = `ready          true
node           192.168.32.245
subnet         172.245.0.0/24 of 172.244.0.0/14
backend        vxlan, container MTU 1450
dataplane      ebpf
containers     2 found, 1 addresses known
etcd revision  42

PEER            SUBNET          ENCAPSULATION  NEXT HOP        VTEP MAC
192.168.32.246  172.246.0.0/24  vxlan          192.168.32.1    c6:00:00:00:02:00
192.168.32.247  172.247.0.0/24  host-gw        192.168.32.247  

problem: etcd 172.247.1.0-24: has no VtepMAC; not served
problem: session: no etcd
`

func TestPrintStatus(t *testing.T) {
	none := testStatus
	none.Peers, none.Problems = nil, nil
	kernel := testStatus
	kernel.Dataplane = node.Netlink
	copied := kernel
	copied.Copied = &node.Copied{Sent: 5, Delivered: 4, Drops: map[string]uint64{"ttl": 2, "no_route": 1}}
	dropped, clean := testStatus, testStatus
	dropped.Dropped = map[string]uint64{"from_network spoofed_source": 3, "from_container container_source": 1}
	clean.Dropped = map[string]uint64{}
	dual, six := testStatus, testStatus
	dual.Node6, dual.Subnet6 = netip.MustParseAddr("2001:db8::245"), netip.MustParsePrefix("fc00:0:0:1::/64")
	dual.Network6 = netip.MustParsePrefix("fc00::/48")
	six.Node6, six.Subnet6, six.Network6 = dual.Node6, dual.Subnet6, dual.Network6
	six.Node, six.Subnet, six.Network = netip.Addr{}, netip.Prefix{}, netip.Prefix{}
	tests := map[string]struct {
		status node.Status
		want   string
	}{
		"ready": {testStatus, testStatusTable},
		"in both families": {dual, strings.NewReplacer("192.168.32.245\n", "192.168.32.245, 2001:db8::245\n",
			"of 172.244.0.0/14\n", "of 172.244.0.0/14\nsubnet         fc00:0:0:1::/64 of fc00::/48\n").Replace(testStatusTable)},
		"in IPv6 alone": {six, strings.NewReplacer("192.168.32.245\n", "2001:db8::245\n",
			"172.245.0.0/24 of 172.244.0.0/14\n", "fc00:0:0:1::/64 of fc00::/48\n").Replace(testStatusTable)},
		"alone in the network": {none, testStatusTable[:strings.Index(testStatusTable, "PEER")] +
			"PEER  SUBNET  ENCAPSULATION  NEXT HOP  VTEP MAC\n"},
		"the kernel's own devices": {kernel, strings.Replace(testStatusTable,
			"ebpf\ncontainers     2 found, 1 addresses known\n", "netlink\n", 1)},
		"copied in user space": {copied, strings.Replace(testStatusTable, "ebpf\ncontainers     2 found, 1 addresses known\n",
			"netlink\ncopied         5 packets sent, 4 delivered, dropped: 1 no_route, 2 ttl\n", 1)},
		"dropped by the programs": {dropped, strings.Replace(testStatusTable, "etcd revision",
			"dropped        1 from_container container_source, 3 from_network spoofed_source\netcd revision", 1)},
		"none dropped": {clean, strings.Replace(testStatusTable, "etcd revision", "dropped        none\netcd revision", 1)},
		"before there is a network": {
			node.Status{Problems: []node.Problem{{Source: "session", Text: "no etcd"}}},
			"ready  false\nproblem: session: no etcd\n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := printStatus(&b, test.status); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, b.String()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

// daemonAt answers as a daemon does, in the returned run directory.
func daemonAt(t *testing.T, s node.Status) string {
	t.Helper()
	runDir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(runDir, node.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable) // as one that is not ready: there is a status all the same
		_ = json.NewEncoder(w).Encode(s)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return runDir
}

// execute is what a command line prints.
func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var b bytes.Buffer
	root := newRootCommand()
	root.SetOut(&b)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return b.String(), err
}

func TestStatusCommand(t *testing.T) {
	runDir := daemonAt(t, testStatus)
	out, err := execute(t, "status", "--run-dir", runDir)
	if diff := cmp.Diff(testStatusTable, out); diff != "" || err != nil {
		t.Errorf("error %v, table (-want +got):\n%s", err, diff)
	}
	out, err = execute(t, "status", "--run-dir", runDir, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got node.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testStatus, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}

func TestStatusCommandErrors(t *testing.T) {
	runDir := daemonAt(t, testStatus)
	nowhere := t.TempDir()
	tests := map[string]struct {
		args []string
		want string
	}{
		"no daemon":      {[]string{"--run-dir", nowhere}, "is it running, with --run-dir " + nowhere + "?"},
		"unknown format": {[]string{"--run-dir", runDir, "-o", "xml"}, `unknown output format "xml": table or json`},
		"argument":       {[]string{"now"}, `unknown command "now" for "bpfnet status"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := execute(t, append([]string{"status"}, test.args...)...)
			if err == nil || !strings.Contains(err.Error(), test.want) || out != "" {
				t.Errorf("error %v, output %q; want an error with %q", err, out, test.want)
			}
		})
	}
}
