// SPDX-License-Identifier: Apache-2.0

//go:build root

package firewall

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// unchanged calls Ensure, which must write nothing: nf_tables counts its transactions.
func (w *world) unchanged(r Rules) {
	w.t.Helper()
	before := w.generation()
	changed, err := Ensure(r)
	if after := w.generation(); err != nil || changed || after != before {
		w.t.Fatalf("Ensure once more: changed %v, error %v, generation %d and then %d; want no change", changed, err, before, after)
	}
}

// generation is the number of transactions nf_tables has done in this namespace.
func (w *world) generation() uint32 {
	w.t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	w.must(err)
	defer conn.Close()
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, 4), // struct nfgenmsg
	})
	w.must(err)
	attributes, err := netlink.UnmarshalAttributes(replies[0].Data[4:])
	w.must(err)
	for _, a := range attributes {
		if a.Type == unix.NFTA_GEN_ID {
			return binary.BigEndian.Uint32(a.Data)
		}
	}
	w.t.Fatal("nf_tables tells no generation")
	return 0
}

// counters are what a ruleset's listing has that traffic changes.
var counters = regexp.MustCompile(`\[\d+:\d+\]|counter packets \d+ bytes \d+|(?m)^# (Generated|Completed).*$`)

// ruleset is everything of everybody, as each tool prints it.
func (w *world) ruleset() string {
	w.t.Helper()
	var all strings.Builder
	for _, v := range variants(w.t) {
		all.WriteString(w.run("iptables"+v+"-save") + w.run("ip6tables"+v+"-save"))
	}
	all.WriteString(w.run("nft", "-s", "list", "ruleset"))
	return counters.ReplaceAllString(all.String(), "")
}

func TestRemoveLeavesWhatWas(t *testing.T) {
	inVariants(t, func(t *testing.T, variant string) {
		inWorlds(t, func(w *world) {
			w.docker(variant)
			w.iptables(variant,
				"-t nat -N FLANNEL-POSTRTG", "-t nat -A POSTROUTING -j FLANNEL-POSTRTG", "-t nat -A FLANNEL-POSTRTG -s $O -d $N -j RETURN",
				"-N FLANNEL-FWD", "-A FORWARD -j FLANNEL-FWD", "-A FLANNEL-FWD -s $N -j ACCEPT")
			w.iptables("-nft", "-A FORWARD -j RETURN") // so that the default has a filter table too
			w.run("nft", "add table inet mine { chain forward { type filter hook forward priority 0; policy accept; } ; }")
			before := w.ruleset()

			w.ensure(w.rules())
			during := w.ruleset()
			if during == before || strings.Contains(during, "incompatible") {
				w.t.Errorf("with our rules:\n%s", during)
			}
			w.removed(before)
			w.removed(before)
		})
	})
}

func (w *world) removed(want string) {
	w.t.Helper()
	before := w.generation()
	w.must(Remove())
	if got := w.ruleset(); got != want {
		w.t.Errorf("after Remove:\n%s\nwant:\n%s", got, want)
	}
	after := w.generation()
	w.must(Remove())
	if again := w.generation(); again != after || after == before && strings.Contains(want, tableName) {
		w.t.Errorf("Remove where nothing is: %d transactions", again-after)
	}
}

// Each of these is something another program or a person may do to our rules.
func TestEnsureRepairs(t *testing.T) {
	for name, damage := range map[string]func(w *world){
		"table gone":       func(w *world) { w.nft("delete table FAM bpfnet") },
		"all gone":         func(w *world) { w.nft("flush ruleset") },
		"chain flushed":    func(w *world) { w.nft("flush chain FAM bpfnet postrouting") },
		"rule first":       func(w *world) { w.nft("insert rule FAM bpfnet postrouting accept") },
		"rule last":        func(w *world) { w.nft("add rule FAM bpfnet postrouting accept") },
		"chain too many":   func(w *world) { w.nft("add chain FAM bpfnet other") },
		"dormant":          func(w *world) { w.nft("add table FAM bpfnet { flags dormant; }") },
		"policy":           func(w *world) { w.nft("add chain FAM bpfnet postrouting { policy drop; }") },
		"rule replaced":    func(w *world) { w.replaceLastRule() },
		"jump gone":        func(w *world) { w.iptables("-nft", "-D FORWARD -j BPFNET-FORWARD") },
		"jump twice":       func(w *world) { w.iptables("-nft", "-I FORWARD -j BPFNET-FORWARD") },
		"jump behind drop": func(w *world) { w.iptables("-nft", "-I FORWARD -j DROP") },
		"accept gone":      func(w *world) { w.iptables("-nft", "-D BPFNET-FORWARD -d $N -j ACCEPT") },
		"accept twice":     func(w *world) { w.iptables("-nft", "-A BPFNET-FORWARD -s $N -j ACCEPT") },
		"accept too much":  func(w *world) { w.iptables("-nft", "-I BPFNET-FORWARD -j ACCEPT") },
		"forward gone":     func(w *world) { w.iptables("-nft", "-F", "-X", "-P FORWARD DROP") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorlds(t, func(w *world) {
				w.publish("-nft")
				w.ensure(w.rules())
				want := w.listed()
				damage(w)
				w.ensure(w.rules())
				if got := w.listed(); got != want {
					w.t.Errorf("repaired:\n%s\nwant:\n%s", got, want)
				}
			})
		})
	}
}

// Another network, subnet, or less to do: nothing of what was stays.
func TestEnsureReplaces(t *testing.T) {
	inWorlds(t, func(w *world) {
		old := w.rules()
		old.Network, old.Subnet = w.stale, w.stale
		old.RandomFully = false
		w.ensure(old)
		w.ensure(w.rules())
		if got := w.listed(); strings.Contains(got, strings.TrimSuffix(w.stale.Masked().Addr().String(), "0")) {
			w.t.Errorf("rules of the old network:\n%s", got)
		}
		fewer := w.rules()
		fewer.Masquerade = false
		w.ensure(fewer)
		if got := w.listed(); strings.Contains(got, "table") || !strings.Contains(got, "ACCEPT") {
			w.t.Errorf("without masquerading:\n%s", got)
		}
		fewer.Forward = false
		w.ensure(fewer)
		if got := w.listed(); strings.Contains(got, "BPFNET") {
			w.t.Errorf("with nothing to do:\n%s", got)
		}
	})
}

// The rules of the two families stand beside each other, and go alone.
func TestRemoveFamily(t *testing.T) {
	inWorlds(t, func(w *world) {
		other := ipv6World
		if w.family.command == ipv6.command {
			other = ipv4World
		}
		w.ensure(w.rules())
		before := w.ruleset()
		w.ensure(other.rules())
		w.unchanged(w.rules())
		w.must(RemoveFamily(other.network.Addr().Is6()))
		w.unchanged(w.rules())
		if got := w.ruleset(); strings.Count(got, forwardChain) != strings.Count(before, forwardChain) || strings.Count(got, "table "+w.nftFamily()+" "+tableName) != 1 ||
			strings.Contains(got, other.network.String()) {
			w.t.Errorf("without the other family:\n%s", got)
		}
	})
}

func TestRulesRefused(t *testing.T) {
	for name, r := range map[string]Rules{
		"no network":        {},
		"no subnet":         {Network: ipv4World.network, Masquerade: true},
		"subnet elsewhere":  {Network: ipv4World.network, Subnet: p("10.0.0.0/24"), Masquerade: true},
		"subnet larger":     {Network: p("172.240.0.0/14"), Subnet: p("172.240.0.0/13"), Masquerade: true},
		"subnet of another": {Network: ipv4World.network, Subnet: ipv6World.subnet, Masquerade: true},
	} {
		if changed, err := Ensure(r); err == nil || changed {
			t.Errorf("%s: changed %v, error %v; want an error", name, changed, err)
		}
	}
}

// Without iptables there is nothing to accept, unless somebody's filter table is there.
func TestNoIPTables(t *testing.T) {
	inWorlds(t, func(w *world) {
		path := os.Getenv("PATH")
		w.t.Setenv("PATH", w.t.TempDir())
		w.ensure(w.rules())

		w.t.Setenv("PATH", path)
		w.must(Remove())
		w.docker("-nft")
		w.t.Setenv("PATH", w.t.TempDir())
		changed, err := Ensure(w.rules())
		if err == nil || !changed || !strings.Contains(err.Error(), "install "+w.family.command) {
			w.t.Errorf("Ensure: changed %v, error %v; want masquerading, and to be told to install %s", changed, err, w.family.command)
		}
		w.must(Remove())
		w.t.Setenv("PATH", path)
		if seen := w.ruleset(); strings.Contains(seen, tableName) {
			w.t.Errorf("after Remove:\n%s", seen)
		}
	})
}

// A failing iptables command keeps nobody from masquerading.
func TestForwardFails(t *testing.T) {
	inWorlds(t, func(w *world) {
		bin, path := w.t.TempDir(), os.Getenv("PATH")
		for _, c := range []string{w.family.command, w.family.command + "-nft", w.family.command + "-legacy"} {
			w.must(os.WriteFile(filepath.Join(bin, c), []byte("#!/bin/sh\n[ $1 = --version ] && echo iptables v1.8.9 && exit\necho broken >&2; exit 4\n"), 0o755))
		}
		w.t.Setenv("PATH", bin+":"+path)
		changed, err := Ensure(w.rules())
		if err == nil || !changed || !strings.HasSuffix(err.Error(), "broken") {
			w.t.Errorf("Ensure: changed %v, error %q; want both, and what the command said", changed, err)
		}
		w.t.Setenv("PATH", path)
		if seen := w.source(w.container, w.internet.service(), w.internet); seen != w.wan0.Addr() {
			w.t.Errorf("the internet saw %v", seen)
		}
	})
}

// A table that cannot be written keeps nobody from forwarding: here another process owns it.
func TestMasqueradeFails(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.iptables("-nft", "-P FORWARD DROP")
		owner := w.own(tableName)
		changed, err := Ensure(w.rules())
		if err == nil || !changed {
			w.t.Errorf("Ensure: changed %v, error %v; want both", changed, err)
		}
		if seen := w.source(w.container, w.peer.service(), w.peer); seen != w.container.addr {
			w.t.Errorf("the peer saw %v", seen)
		}
		if err := Remove(); err == nil {
			w.t.Error("Remove of another's table: no error")
		}
		w.must(owner.Close()) // the table goes with it
		w.must(Remove())
		if got := w.listed(); got != "" {
			w.t.Errorf("after Remove:\n%s", got)
		}
	})
}

// own makes a table that only the owner of the connection may change.
func (w *world) own(name string) *netlink.Conn {
	w.t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	w.must(err)
	w.t.Cleanup(func() { _ = conn.Close() })
	table, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: []byte{0, 0, 0, 2}}, // NFT_TABLE_F_OWNER
	})
	w.must(err)
	batch := []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES} // struct nfgenmsg
	_, err = conn.SendMessages([]netlink.Message{
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: batch},
		{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE, Flags: netlink.Request | netlink.Create | netlink.Acknowledge},
			Data:   append([]byte{byte(w.family.nft), 0, 0, 0}, table...),
		},
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: batch},
	})
	w.must(err)
	_, err = conn.Receive()
	w.must(err)
	return conn
}

// listed is all that is ours, as people see it.
func (w *world) listed() string {
	w.t.Helper()
	var ours strings.Builder
	for _, l := range strings.Split(w.run(w.family.command+"-nft-save", "-t", "filter"), "\n") {
		if strings.Contains(l, forwardChain) {
			ours.WriteString(counters.ReplaceAllString(l, "") + "\n")
		}
	}
	for _, l := range strings.Split(w.run("nft", "list", "tables"), "\n") {
		if l == "table "+w.nftFamily()+" "+tableName {
			ours.WriteString(w.run("nft", "list", "table", w.nftFamily(), tableName))
		}
	}
	return ours.String()
}

// nft runs an nft command, FAM in it being the family.
func (w *world) nft(line string) {
	w.t.Helper()
	w.run(append([]string{"nft"}, strings.ReplaceAll(line, "FAM", w.nftFamily()))...)
}

func (w *world) nftFamily() string {
	return map[netip.Addr]string{ipv4.multicast.Addr(): "ip", ipv6.multicast.Addr(): "ip6"}[w.family.multicast.Addr()]
}

// replaceLastRule puts another rule in the place of ours, under the same comment.
func (w *world) replaceLastRule() {
	w.t.Helper()
	listing := w.run("nft", "-a", "list", "chain", w.nftFamily(), tableName, chainName)
	last := regexp.MustCompile(`(?s).*comment "(.*?)" # handle (\d+)`).FindStringSubmatch(listing)
	w.nft("replace rule FAM bpfnet postrouting handle " + last[2] + ` masquerade comment "` + last[1] + `"`)
}
