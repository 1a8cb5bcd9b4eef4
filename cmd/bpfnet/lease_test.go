// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
)

// etcdServer serves etcd with these keys under the default prefix, of which the
// leases live for a day unless their name begins with "!".
func etcdServer(t *testing.T, keys map[string]string) (endpoint string, cli *clientv3.Client) {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir(), ClientURLs: []string{"http://127.0.0.1:0"}, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if failed := s.Close(); failed != nil {
			t.Error(failed)
		}
	})
	if cli, err = clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cli.Close() })
	for key, value := range keys {
		name, reserved := strings.CutPrefix(key, "!")
		var grant clientv3.LeaseID
		if strings.HasPrefix(name, "subnets/") && !reserved {
			g, failed := cli.Grant(t.Context(), 86400)
			if failed != nil {
				t.Fatal(failed)
			}
			grant = g.ID
		}
		if _, err = cli.Put(t.Context(), store.DefaultPrefix+"/"+name, value, clientv3.WithLease(grant)); err != nil {
			t.Fatal(err)
		}
	}
	return s.Endpoints()[0], cli
}

// etcdKey is a key's value and whether it lives for ever.
func etcdKey(t *testing.T, cli *clientv3.Client, key string) (value string, forever bool) {
	t.Helper()
	resp, err := cli.Get(t.Context(), store.DefaultPrefix+"/"+key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return "", false
	}
	return string(resp.Kvs[0].Value), resp.Kvs[0].Lease == 0
}

const (
	vxlanConfig = `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`
	vxlanLease1 = `{"PublicIP":"192.168.64.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:41"}}`
	vxlanLease2 = `{"PublicIP":"192.168.64.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"c6:d2:32:6f:8f:42"}}`
	ipipLease   = `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"ipip"}`
	toCome      = `{"PublicIP":"192.168.64.4","PublicIPv6":null,"BackendType":"reserved"}`
)

func someLeases(t *testing.T) (endpoint string, cli *clientv3.Client) {
	return etcdServer(t, map[string]string{
		"config": vxlanConfig, "subnets/10.5.1.0-24": vxlanLease1, "subnets/10.5.2.0-24": vxlanLease2,
		"!subnets/10.5.3.0-24": ipipLease, "!subnets/10.5.4.0-24": toCome, "!subnets/10.9.1.0-24": vxlanLease1, "!subnets/rubbish": "x",
	})
}

func TestLeaseList(t *testing.T) {
	endpoint, _ := someLeases(t)
	out, err := execute(t, "lease", "list", "--etcd-endpoints", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"SUBNET NODE BACKEND VNI VTEP MAC EXPIRES PROBLEM",
		"10.5.1.0/24 192.168.64.1 vxlan 1 c6:d2:32:6f:8f:41 in 24h0m",
		"10.5.2.0/24 192.168.64.2 vxlan 7 c6:d2:32:6f:8f:42 in 24h0m the network's VNI is 1: restart that node",
		"10.5.3.0/24 192.168.64.3 ipip reserved the network's backend is vxlan: restart that node",
		"10.5.4.0/24 192.168.64.4 reserved, node to come",
		"10.9.1.0/24 192.168.64.1 vxlan 1 c6:d2:32:6f:8f:41 reserved subnet is none of the network's: its node gets another one",
		`rubbish reserved key names no subnet: "rubbish" is not of the form "172.245.0.0-24"`,
	} {
		if got := strings.Join(strings.Fields(strings.Split(out, "\n")[i]), " "); got != want {
			t.Errorf("line %d is\n %s\nwant\n %s", i, got, want)
		}
	}
	if out, err = execute(t, "lease", "list", "-o", "json", "--etcd-endpoints", endpoint); err != nil {
		t.Fatal(err)
	}
	var rows []leaseRow
	if err = json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 6 {
		t.Fatalf("error %v, %s", err, out)
	}
	if r := rows[0]; r.Key != "10.5.1.0-24" || r.Node != netip.MustParseAddr("192.168.64.1") || *r.VNI != 1 || r.Reserved ||
		time.Until(r.Expires).Round(time.Hour) != 24*time.Hour {
		t.Errorf("first is %+v", r)
	}
	if r := rows[3]; !r.Reserved || !r.Pending || !r.Expires.IsZero() || r.VNI != nil {
		t.Errorf("reservation is %+v", r)
	}
}

// TestLeaseListOfNothing: no config and no leases is no error.
func TestLeaseListOfNothing(t *testing.T) {
	endpoint, _ := etcdServer(t, nil)
	if out, err := execute(t, "lease", "list", "-o", "json", "--etcd-endpoints", endpoint); err != nil || out != "[]\n" {
		t.Errorf("%q, error %v", out, err)
	}
}

func TestLeaseReserve(t *testing.T) {
	endpoint, cli := someLeases(t)
	for _, step := range []struct {
		command string
		out     string // begins with
		err     string
		key     string // that then holds value, for ever or not
		value   string
		forever bool
	}{
		{"reserve 10.5.1.0/24", "10.5.1.0-24 is reserved for node 192.168.64.1\n", "", "10.5.1.0-24", vxlanLease1, true},
		{"reserve 10.5.1.0/24", "10.5.1.0-24 is reserved for node 192.168.64.1\n", "", "10.5.1.0-24", vxlanLease1, true},
		{"unreserve 10.5.1.1/24", "10.5.1.0-24 ends at ", "", "10.5.1.0-24", vxlanLease1, false},
		{"unreserve 10.5.1.0-24", "10.5.1.0-24 is not reserved\n", "", "10.5.1.0-24", vxlanLease1, false},
		{"reserve 10.5.7.0/24", "", `there is no lease "10.5.7.0/24"`, "10.5.7.0-24", "", false},
		{"reserve rubbish", "", "rubbish is no lease", "rubbish", "x", true},
		{"reserve 10.5.7.0/24 --public-ip 192.168.64.7", "10.5.7.0/24 is reserved for node 192.168.64.7, when it comes\n", "",
			"10.5.7.0-24", strings.Replace(toCome, "64.4", "64.7", 1), true},
		{"reserve 10.5.7.0/24 --public-ip 192.168.64.8", "", "reserve 10.5.7.0-24: it is that of lease 10.5.7.0-24: choose a free one", "10.5.7.0-24",
			strings.Replace(toCome, "64.4", "64.7", 1), true},
		{"reserve 10.5.8 --public-ip 192.168.64.8", "", `"10.5.8" is no subnet`, "10.5.8.0-24", "", false},
		{"reserve 10.5.8.0/24 --public-ip 224.0.0.1", "", "--public-ip 224.0.0.1: is no address", "10.5.8.0-24", "", false},
		{"unreserve 10.5.7.0/24", "10.5.7.0-24 ends at ", "", "10.5.7.0-24", strings.Replace(toCome, "64.4", "64.7", 1), false},

		{"release 10.5.1.0/24", "", "lease 10.5.1.0-24 is that of node 192.168.64.1, which may be alive: stop its daemon first, " +
			"then --force deletes it (it ends by itself in 24h0m", "10.5.1.0-24", vxlanLease1, false},
		{"release 10.5.3.0/24", "", "lease 10.5.3.0-24 is that of node 192.168.64.3, which may be alive", "10.5.3.0-24", ipipLease, true},
		{"release 10.5.1.0/24 --force", "10.5.1.0-24 is deleted\n", "", "10.5.1.0-24", "", false},
		{"release 10.5.4.0/24", "10.5.4.0-24 is deleted\n", "", "10.5.4.0-24", "", false},
		{"release rubbish", "rubbish is deleted\n", "", "rubbish", "", false},
		{"release rubbish", "", `there is no lease "rubbish"`, "rubbish", "", false},
	} {
		args := append([]string{"lease", "--etcd-endpoints", endpoint, "--run-dir", t.TempDir()}, strings.Fields(step.command)...)
		out, err := execute(t, args...)
		if step.err == "" && err != nil || step.err != "" && (err == nil || !strings.HasPrefix(err.Error(), step.err)) ||
			!strings.HasPrefix(out, step.out) || strings.Count(out, "\n") > 1 {
			t.Errorf("%s: %q, error %v; want %q, error %s", step.command, out, err, step.out, step.err)
		}
		if value, forever := etcdKey(t, cli, "subnets/"+step.key); value != step.value || forever != step.forever {
			t.Errorf("%s: etcd holds %s, for ever: %t", step.command, value, forever)
		}
	}
}

// TestLeasesOfTwoFamilies lists, reserves and releases what is dual-stack.
func TestLeasesOfTwoFamilies(t *testing.T) {
	const (
		dualKey = "10.5.1.0-24&fc00:0:0:1::-64"
		dual    = `{"PublicIP":"192.168.64.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:41"},` +
			`"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:61"}}`
	)
	endpoint, cli := etcdServer(t, map[string]string{
		"config":             `{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}`,
		"subnets/" + dualKey: dual, "subnets/10.5.2.0-24": strings.NewReplacer("64.1", "64.2", "8f:41", "8f:42").Replace(vxlanLease1),
	})
	out, err := execute(t, "lease", "list", "--etcd-endpoints", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"SUBNET NODE BACKEND VNI VTEP MAC EXPIRES PROBLEM",
		"10.5.1.0/24,fc00:0:0:1::/64 192.168.64.1,2001:db8::1 vxlan 1 c6:d2:32:6f:8f:41,c6:d2:32:6f:8f:61 in 24h0m",
		"10.5.2.0/24 192.168.64.2 vxlan 1 c6:d2:32:6f:8f:42 in 24h0m lacks a subnet of one of the network's families: restart that node",
	} {
		if got := strings.Join(strings.Fields(strings.Split(out, "\n")[i]), " "); got != want {
			t.Errorf("line %d is\n %s\nwant\n %s", i, got, want)
		}
	}
	for _, step := range []struct{ command, out, err, key, value string }{
		{"reserve fc00:0:0:1::/64", dualKey + " is reserved for node 192.168.64.1\n", "", dualKey, dual},
		{"reserve 10.5.1.0/24 fc00:0:0:1::/64", "", "a lease has both subnets", dualKey, dual},
		{"reserve 10.5.7.0/24 10.5.8.0/24 --public-ip 192.168.64.7", "", `"10.5.8.0/24" is no subnet`, "10.5.7.0-24", ""},
		{"reserve 10.5.7.0/24 --public-ipv6 192.168.64.7", "", "--public-ipv6 192.168.64.7: is no address", "10.5.7.0-24", ""},
		{"reserve fc00:0:0:9::/64 10.5.7.0/24 --public-ip 192.168.64.7",
			"fc00:0:0:9::/64 and 10.5.7.0/24 is reserved for node 192.168.64.7, when it comes\n", "",
			"10.5.7.0-24&fc00:0:0:9::-64", strings.Replace(toCome, "64.4", "64.7", 1)},
		{"reserve fc00:0:0:a::/64 --public-ipv6 2001:db8::9", "fc00:0:0:a::/64 is reserved for node 2001:db8::9, when it comes\n", "",
			"0.0.0.0-0&fc00:0:0:a::-64", `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::9","BackendType":"reserved"}`},
		{"release fc00:0:0:9::/64", "10.5.7.0-24&fc00:0:0:9::-64 is deleted\n", "", "10.5.7.0-24&fc00:0:0:9::-64", ""},
	} {
		out, err := execute(t, append([]string{"lease", "--etcd-endpoints", endpoint, "--run-dir", t.TempDir()}, strings.Fields(step.command)...)...)
		if step.err == "" && err != nil || step.err != "" && (err == nil || !strings.HasPrefix(err.Error(), step.err)) || out != step.out {
			t.Errorf("%s: %q, error %v; want %q, error %s", step.command, out, err, step.out, step.err)
		}
		if value, _ := etcdKey(t, cli, "subnets/"+step.key); value != step.value {
			t.Errorf("%s: etcd holds %s", step.command, value)
		}
	}
}

// TestLeaseReserveOfFlanneld: it gives its lease a time limit again, as flanneld 0.28.4 does.
func TestLeaseReserveOfFlanneld(t *testing.T) {
	endpoint, cli := someLeases(t)
	const key = store.DefaultPrefix + "/subnets/10.5.1.0-24"
	changes := cli.Watch(t.Context(), key, clientv3.WithCreatedNotify())
	<-changes
	done := make(chan error, 1)
	go func() {
		<-changes
		g, err := cli.Grant(t.Context(), 86400)
		if err == nil {
			_, err = cli.Put(t.Context(), key, vxlanLease1, clientv3.WithLease(g.ID))
		}
		done <- err
	}()
	_, err := execute(t, "lease", "reserve", "10.5.1.0/24", "--etcd-endpoints", endpoint)
	if err == nil || !strings.HasPrefix(err.Error(), "lease 10.5.1.0-24 has a time limit again: node 192.168.64.1 runs flanneld") {
		t.Errorf("error %v", err)
	}
	if err = <-done; err != nil {
		t.Error(err)
	}
}

// TestLeaseOfThisNode has a daemon on this node, which says where etcd is and
// whose lease is whose.
func TestLeaseOfThisNode(t *testing.T) {
	endpoint, cli := someLeases(t)
	runDir := daemonAt(t, node.Status{
		Lease: "10.5.1.0-24",
		Etcd:  node.EtcdAccess{Endpoints: []string{endpoint}, Prefix: store.DefaultPrefix},
	})
	_, err := execute(t, "lease", "release", "10.5.1.0/24", "--run-dir", runDir)
	if err == nil || !strings.HasPrefix(err.Error(), "lease 10.5.1.0-24 is that of this node, whose daemon is running") {
		t.Errorf("error %v", err)
	}
	if _, err = execute(t, "lease", "release", "10.5.1.0/24", "--force", "--run-dir", runDir); err != nil {
		t.Error(err)
	}
	if value, _ := etcdKey(t, cli, "subnets/10.5.1.0-24"); value != "" {
		t.Errorf("etcd holds %s", value)
	}
	// What the user says goes before what the daemon says.
	if out, err := execute(t, "lease", "list", "--run-dir", runDir, "--etcd-prefix", "/other", "-o", "json"); err != nil || out != "[]\n" {
		t.Errorf("%s, error %v", out, err)
	}
}

// TestEtcdByEnvironment: what is there for a daemon is not taken for more than it is.
func TestEtcdByEnvironment(t *testing.T) {
	endpoint, cli := someLeases(t)
	t.Setenv("FLANNELD_ETCD_ENDPOINTS", endpoint)
	t.Setenv("FLANNELD_PUBLIC_IP", "192.168.64.9")
	t.Setenv("BPFNET_FORCE", "true")
	if _, err := execute(t, "lease", "reserve", "10.5.2.0/24"); err != nil {
		t.Error(err)
	}
	if value, forever := etcdKey(t, cli, "subnets/10.5.2.0-24"); value != vxlanLease2 || !forever {
		t.Errorf("etcd holds %s, for ever: %t", value, forever)
	}
	if _, err := execute(t, "lease", "release", "10.5.2.0/24"); err == nil {
		t.Error("released without --force")
	}
}
