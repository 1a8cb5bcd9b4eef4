// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestBadRecords puts records into etcd that cannot be served, one after the
// other, under two pings of 100/s. Each host says once what is wrong and what to
// do, serves all that is right as before, and says once when it is over.
//
//	h1/c1 172.245.0.2  h1/c2 .3      h2/c1 172.246.0.2  h2/c2 .3
//	      └── h1 .245 ───┘                └── h2 .246 ────┘
//	            └────────── 192.168.32.0/24 ───┘
//	                           .1 etcd, the test's own
func TestBadRecords(t *testing.T) {
	forEachUp(t, both(topology.EncapVXLAN), withEtcd, testBadRecords)
}

func testBadRecords(t *testing.T, l *lab.Lab) {
	startEtcd(t, l)
	for _, h := range l.Hosts {
		noError(t, h.StartDaemon(t.Context(), jsonLog))
		learn(t, h)
	}
	c := dialEtcd(t, l.Wire(), etcdURL)
	waitEtcd(t, l, c)
	right := leases(t, c)
	config := get(t, c, "config")
	h1, h2 := l.Hosts[0], l.Hosts[1]
	there := startFlow(t, h1.Containers[0], h2.Containers[0], 10*time.Millisecond)
	back := startFlow(t, h2.Containers[1], h1.Containers[1], 10*time.Millisecond)

	for _, test := range badRecords(right, h1, h2) {
		t.Run(test.name, func(t *testing.T) {
			marks := []int64{logMark(t, h1), logMark(t, h2)}
			put(t, c, test.key, test.value)
			for i, h := range l.Hosts {
				waitProblems(t, h, test.problem(i))
				waitView(t, h, wantView(l, h, slices.Concat(test.served[i], right)...), time.Now())
				equal(t, h.Name+"'s warnings", []string{test.text[i]}, warnings(t, h, marks[i]))
			}
			there.more(10)
			if test.key == "config" {
				put(t, c, "config", config)
			} else {
				remove(t, c, test.key)
			}
			for i, h := range l.Hosts {
				waitProblems(t, h)
				waitView(t, h, wantView(l, h, right...), time.Now())
				equal(t, h.Name+"'s log", []string{test.text[i], "mended"}, texts(logged(t, h, marks[i])))
			}
		})
	}
	there.intact()
	back.intact()
}

// badRecord is a record, and what each host makes of it.
type badRecord struct {
	name, key, value string
	text             [2]string
	blamed           [2]string        // another lease, if it is the other that the text is about
	served           [2][]store.Lease // though something is wrong with it
}

// problem is the record in a host's status.
func (b badRecord) problem(host int) node.Problem {
	if b.key == "config" {
		return node.Problem{Source: "config", Text: b.text[host]}
	}
	key := strings.TrimPrefix(b.key, "subnets/")
	if b.blamed[host] != "" {
		key = b.blamed[host]
	}
	return node.Problem{Source: "etcd", Key: key, Text: b.text[host]}
}

func badRecords(right []store.Lease, h1, h2 *lab.Host) []badRecord {
	return slices.Concat(unreadableRecords(), wrongLeases(h2), stolenIdentities(right, h1, h2), badConfigs())
}

// unreadableRecords are no leases.
func unreadableRecords() []badRecord {
	record := func(name, key, value, text string) badRecord {
		text += "; not served: delete it, or restart the node that wrote it"
		return badRecord{name: name, key: "subnets/" + key, value: value, text: [2]string{text, text}}
	}
	return []badRecord{
		record("lease not JSON", "172.244.20.0-24", `{"PublicIP":`, "value is no lease: unexpected end of JSON input"),
		record("lease without VTEP MAC", "172.244.20.0-24",
			`{"PublicIP":"192.168.32.99","BackendType":"vxlan","BackendData":{"VNI":1}}`,
			"BackendData.VtepMAC is missing: a vxlan lease needs its node's VTEP MAC"),
		record("lease of no subnet", "everything", `{"PublicIP":"192.168.32.99","BackendType":"host-gw"}`,
			`key names no subnet: "everything" is not of the form "172.245.0.0-24"`),
		record("lease of a misaligned subnet", "172.244.20.5-24", `{"PublicIP":"192.168.32.99","BackendType":"host-gw"}`,
			"subnet 172.244.20.5/24 is misaligned: a /24 begins at 172.244.20.0"),
	}
}

// wrongLeases are leases that no host can serve.
func wrongLeases(h2 *lab.Host) []badRecord {
	record := func(name, subnet string, change func(*store.Lease), text1, text2 string) badRecord {
		l := madeUp(subnet, 99)
		change(&l)
		return leaseRecord(name, l, text1+"; not served", text2+"; not served")
	}
	both := func(name, subnet string, change func(*store.Lease), text string) badRecord {
		return record(name, subnet, change, text, text)
	}
	asItIs := func(*store.Lease) {}
	return []badRecord{
		record("lease that overlaps h2's", "172.246.0.128/25", asItIs, "overlaps the older lease 172.246.0.0-24: delete one of them",
			"subnet 172.246.0.128/25 overlaps this node's own "+h2.Subnet.String()+": delete the lease"),
		record("lease that overlaps both", "172.244.0.0/14", asItIs,
			"subnet 172.244.0.0/14 overlaps this node's own 172.245.0.0/24: delete the lease",
			"subnet 172.244.0.0/14 overlaps this node's own 172.246.0.0/24: delete the lease"),
		both("lease outside the network", "10.9.0.0/24", asItIs, "subnet 10.9.0.0/24 is outside the network 172.244.0.0/14: delete the lease"),
		both("lease of another backend", "172.244.20.0/24", func(l *store.Lease) { l.Backend = topology.EncapNone },
			`has backend "host-gw", the network's is "vxlan": restart that node`),
		both("lease with another VNI", "172.244.20.0/24", func(l *store.Lease) { l.VNI = 7 }, "has VNI 7, the network's is 1: restart that node"),
		both("lease of no node's address", "172.244.20.0/24", func(l *store.Lease) { l.PublicIP = netip.MustParseAddr("192.168.32.255") },
			"no way through the underlay to its PublicIP 192.168.32.255: 192.168.32.255 is not the address of a node: its route is of type 3"),
	}
}

// stolenIdentities are leases with what is another's. They are served where
// they take nothing from it.
func stolenIdentities(right []store.Lease, h1, h2 *lab.Host) []badRecord {
	mac := right[slices.IndexFunc(right, func(l store.Lease) bool { return l.PublicIP == h2.Addr })].MAC
	address, vtep := madeUp("172.244.20.0/24", 99), madeUp("172.244.20.0/24", 99)
	address.PublicIP, vtep.MAC = h1.Addr, mac
	clone := func(of string) string {
		return fmt.Sprintf("has the same VtepMAC %s as lease %s: a cloned machine? give one of them a new machine-id", mac, of)
	}
	first := leaseRecord("lease with h1's PublicIP", address,
		"carries this node's own PublicIP 192.168.32.245: if another node uses the address give it its own --public-ip, "+
			"else delete the old lease; not served",
		"has the same PublicIP 192.168.32.245 as lease 172.244.20.0-24: two nodes with one address, or an old lease; "+
			"give each node its own --public-ip, or delete the old lease")
	first.served, first.blamed = [2][]store.Lease{1: {address}}, [2]string{1: "172.245.0.0-24"}
	second := leaseRecord("lease with h2's VTEP MAC", vtep, clone("172.244.20.0-24"), clone("172.246.0.0-24"))
	second.served, second.blamed = [2][]store.Lease{{vtep}, {vtep}}, [2]string{0: "172.246.0.0-24"}
	return []badRecord{first, second}
}

func leaseRecord(name string, l store.Lease, text1, text2 string) badRecord {
	value, err := l.Value()
	if err != nil {
		panic(err)
	}
	return badRecord{name: name, key: leaseKeyOf(l), value: string(value), text: [2]string{text1, text2}}
}

func badConfigs() []badRecord {
	const removed = "the network config was removed from etcd; the last one is served until there is another"
	record := func(name, value, text string) badRecord {
		text += "; the network is served as before until it is mended"
		return badRecord{name: "config " + name, key: "config", value: value, text: [2]string{text, text}}
	}
	return []badRecord{
		record("not JSON", `{`, "bad network config: not JSON: unexpected end of JSON input"),
		{name: "config emptied", key: "config", text: [2]string{removed, removed}},
		record("without Network", `{"Backend":{"Type":"vxlan"}}`, `bad network config: Network is missing: give one such as "10.244.0.0/16"`),
		record("of another type", `{"Network":5}`, "bad network config: Network is of type number, not a string"),
		record("with a bad Network", `{"Network":"172.244.0.0/33"}`, `bad network config: Network "172.244.0.0/33" is no network: give one such as "10.244.0.0/16"`),
		record("with a bad SubnetLen", `{"Network":"172.244.0.0/14","SubnetLen":31}`, "bad network config: SubnetLen 31 is not within 1 to 30"),
		record("with an unknown backend", `{"Network":"172.244.0.0/14","Backend":{"Type":"alloc"}}`,
			`bad network config: Backend.Type "alloc" is not supported: give "vxlan", "ipip", "host-gw" or "udp"`),
	}
}

func texts(lines []line) (all []string) {
	for _, l := range lines {
		all = append(all, l.Msg)
	}
	return all
}
