// SPDX-License-Identifier: Apache-2.0

//go:build root

package firewall

import (
	"testing"
)

// docker does to the packet filter what Docker does at its start, as far as it
// concerns forwarding between other interfaces.
func (w *world) docker(variant string) {
	w.t.Helper()
	w.iptables(variant,
		"-P FORWARD DROP",
		"-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER",
		"-A FORWARD -i pod0 -o wan0 -j ACCEPT",
		"-A FORWARD -i wan0 -o pod0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-t nat -A POSTROUTING -s $S ! -o pod0 -j MASQUERADE",
	)
}

func (w *world) checkForwarded() {
	w.t.Helper()
	for _, f := range []struct{ from, to place }{{w.container, w.peer}, {w.peer, w.container}} {
		if seen := w.source(f.from, f.to.service(), f.to); seen != f.from.addr {
			w.t.Errorf("from %v: seen as %v", f.from.addr, seen)
		}
	}
	if !w.lost(w.internet, w.peer.by(w.addresses.peer).service(), w.peer.by(w.addresses.peer)) {
		w.t.Error("what is not the network's was let through")
	}
}

func TestForwardBesideDocker(t *testing.T) {
	inVariants(t, func(t *testing.T, variant string) {
		t.Run("before", func(t *testing.T) {
			inWorlds(t, func(w *world) {
				w.docker(variant)
				if !w.lost(w.container, w.peer.service(), w.peer) {
					w.t.Fatal("Docker's rules alone let it through: they do not do what they are here for")
				}
				w.ensure(w.rules())
				w.checkForwarded()
			})
		})
		t.Run("after", func(t *testing.T) {
			inWorlds(t, func(w *world) {
				w.ensure(w.rules())
				w.docker(variant)
				if _, err := Ensure(w.rules()); err != nil { // a change for the variant that is not the default
					w.t.Fatal(err)
				}
				w.unchanged(w.rules())
				w.checkForwarded()
			})
		})
	})
}

// The default's rules are there before Docker starts, so that there is no gap.
func TestForwardBeforehand(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.ensure(w.rules())
		w.docker("") // whatever iptables is here
		w.unchanged(w.rules())
		w.checkForwarded()
	})
}

// What an administrator drops stays dropped.
func TestForwardKeepsDrops(t *testing.T) {
	for name, drop := range map[string]string{
		"docker-user": "-I DOCKER-USER -d $R -j DROP",
		"icc":         "-I FORWARD -i pod0 -o eth0 -j DROP",
	} {
		t.Run(name, func(t *testing.T) {
			inWorlds(t, func(w *world) {
				w.docker("-nft")
				w.ensure(w.rules())
				w.iptables("-nft", drop)
				w.unchanged(w.rules())
				if !w.lost(w.container, w.peer.service(), w.peer) {
					w.t.Error("let through")
				}
			})
		})
	}
}

// A last rule that drops everything is a policy.
func TestForwardBeforeDropOfAll(t *testing.T) {
	inVariants(t, func(t *testing.T, variant string) {
		for _, last := range []string{"DROP", "REJECT"} {
			t.Run(last, func(t *testing.T) {
				inWorlds(t, func(w *world) {
					w.iptables(variant, "-A FORWARD -m comment --comment last -j "+last)
					w.ensure(w.rules())
					if seen := w.source(w.container, w.peer.service(), w.peer); seen != w.container.addr {
						w.t.Errorf("seen as %v", seen)
					}
				})
			})
		}
	})
}
