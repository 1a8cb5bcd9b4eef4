// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// listening is a node that serves its status in a run directory of its own.
func listening(t *testing.T) *node {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	n := &node{Options: Options{RunDir: t.TempDir()}, log: log, reporter: newReporter(log)}
	control, err := n.listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.close)
	return n
}

// get is what GET path answers on the control socket.
func get(t *testing.T, n *node, path string) (code int, header http.Header, body string) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(n.RunDir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	resp, err := client.Get("http://bpfnet" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func servedPeers() []topology.Peer {
	return []topology.Peer{
		{
			Key: "172.246.0.0-24", Subnet: netip.MustParsePrefix("172.246.0.0/24"), Node: netip.MustParseAddr("192.168.32.246"),
			Encap: topology.EncapVXLAN, VTEP: topology.VTEP{MAC: topology.MAC{0xc6, 0, 0, 0, 2, 0}},
			Path: topology.Path{Ifindex: 2, NextHop: netip.MustParseAddr("192.168.32.1"), MTU: 1500},
		},
		{
			Key: "172.247.0.0-24", Subnet: netip.MustParsePrefix("172.247.0.0/24"), Node: netip.MustParseAddr("192.168.32.247"),
			Encap: topology.EncapNone,
			Path:  topology.Path{Ifindex: 2, NextHop: netip.MustParseAddr("192.168.32.247"), MTU: 1500},
		},
	}
}

func served(now *Status) {
	self := topology.Self{Node: netip.MustParseAddr("192.168.32.245"), Subnet: netip.MustParsePrefix("172.245.0.0/24")}
	*now = Status{
		Ready: true, Node: self.Node, Subnet: self.Subnet, Network: netip.MustParsePrefix("172.244.0.0/14"),
		Backend: "vxlan", MTU: 1450, Revision: 42, Containers: 2, Endpoints: 1,
	}
}

const servedJSON = `{
  "ready": true,
  "node": "192.168.32.245",
  "subnet": "172.245.0.0/24",
  "network": "172.244.0.0/14",
  "backend": "vxlan",
  "mtu": 1450,
  "revision": 42,
  "peers": [
    {
      "lease": "172.246.0.0-24",
      "subnet": "172.246.0.0/24",
      "node": "192.168.32.246",
      "encap": "vxlan",
      "next_hop": "192.168.32.1",
      "vtep_mac": "c6:00:00:00:02:00"
    },
    {
      "lease": "172.247.0.0-24",
      "subnet": "172.247.0.0/24",
      "node": "192.168.32.247",
      "encap": "host-gw",
      "next_hop": "192.168.32.247"
    }
  ],
  "containers": 2,
  "endpoints": 1,
  "problems": [
    {
      "source": "etcd",
      "key": "172.247.1.0-24",
      "text": "has no VtepMAC"
    },
    {
      "source": "store",
      "text": "no etcd"
    }
  ]
}
`

func TestStatusJSON(t *testing.T) {
	n := listening(t)
	n.status.update(served)
	n.status.setPeers(servedPeers())
	n.reporter.report("store", errors.New("no etcd"))
	n.reporter.reportRecords("etcd", []topology.Problem{{Key: "172.247.1.0-24", Text: "has no VtepMAC"}})
	code, header, body := get(t, n, "/status")
	if diff := cmp.Diff(servedJSON, body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	if kind := header.Get("Content-Type"); code != http.StatusOK || kind != "application/json" {
		t.Errorf("code %d, content type %q", code, kind)
	}
}

func TestStatusBeforeTheNetworkIsServed(t *testing.T) {
	n := listening(t)
	const want = `{
  "ready": false,
  "node": "",
  "subnet": "",
  "network": "",
  "revision": 0,
  "peers": [],
  "containers": 0,
  "endpoints": 0,
  "problems": []
}
`
	code, _, body := get(t, n, "/status")
	if diff := cmp.Diff(want, body); diff != "" || code != http.StatusServiceUnavailable {
		t.Errorf("code %d, body (-want +got):\n%s", code, diff)
	}
	n.status.update(served)
	if code, _, _ = get(t, n, "/status"); code != http.StatusOK {
		t.Errorf("code %d once served, want 200", code)
	}
	n.status.fail()
	code, _, body = get(t, n, "/status")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, `"subnet": "172.245.0.0/24"`) {
		t.Errorf("code %d once a session failed, body %s; want 503, and what was served", code, body)
	}
}

func TestStatusIsAllThereIs(t *testing.T) {
	n := listening(t)
	if code, _, _ := get(t, n, "/"); code != http.StatusNotFound {
		t.Errorf("GET / gives %d, want 404", code)
	}
}

func TestFetchStatus(t *testing.T) {
	n := listening(t)
	n.status.update(served)
	n.status.setPeers(servedPeers())
	var want Status
	served(&want)
	want.Peers, want.Problems = peerStatus(servedPeers()), []Problem{}
	got, err := FetchStatus(t.Context(), n.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestFetchBrief(t *testing.T) {
	n := listening(t)
	peers := len(servedPeers())
	for _, step := range []struct {
		change func()
		want   Brief
	}{
		{func() {}, Brief{}},
		{func() { n.status.update(served); n.status.setPeers(servedPeers()) }, Brief{true, peers, peers}},
		{func() { n.status.update(func(now *Status) { now.KernelView = &KernelView{1, peers} }) }, Brief{true, peers, 1}},
	} {
		step.change()
		if got, err := FetchBrief(t.Context(), n.RunDir); err != nil || got != step.want {
			t.Errorf("%+v, error %v; want %+v", got, err, step.want)
		}
	}
}

func TestFetchStatusWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	_, err := FetchStatus(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), "is it running, with --run-dir "+dir+"?") {
		t.Errorf("error %v does not say what to do", err)
	}
}

func TestFetchStatusOfNonsense(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, bytes.NewBufferString("<html>"))
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	if _, err := FetchStatus(t.Context(), dir); err == nil || !strings.HasPrefix(err.Error(), "read the daemon's status: ") {
		t.Errorf("error %v, want one of reading", err)
	}
	_ = server.Close()
	<-done
}

// TestListenReplacesAnOldSocket: of a daemon that was killed.
func TestListenReplacesAnOldSocket(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	n := &node{Options: Options{RunDir: t.TempDir()}, log: log, reporter: newReporter(log)}
	path := filepath.Join(n.RunDir, SocketName)
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	if err = old.Close(); err != nil {
		t.Fatal(err)
	}
	control, err := n.listen()
	if err != nil {
		t.Fatal(err)
	}
	if code, _, _ := get(t, n, "/status"); code != http.StatusServiceUnavailable {
		t.Errorf("code %d, want 503", code)
	}
	control.close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// The kernel's own word on a path that is too long is "invalid argument".
func TestSocketPathLength(t *testing.T) {
	t.Chdir(t.TempDir()) // relative paths: a temporary directory's own may be too long
	log := slog.New(slog.DiscardHandler)
	for _, length := range []int{maxSocketPath, maxSocketPath + 1} {
		dir := strings.Repeat("d", length-len("/"+SocketName))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		n := &node{Options: Options{RunDir: dir}, log: log, reporter: newReporter(log)}
		control, err := n.listen()
		if length <= maxSocketPath {
			if err != nil {
				t.Fatalf("path of %d bytes: %v", length, err)
			}
			control.close()
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "choose a shorter --run-dir") {
			t.Errorf("path of %d bytes: %v", length, err)
		}
	}
}
