// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestCNI has the upstream flannel plugin make a container's interface on h1
// from the subnet.env that bpfnet wrote, by the upstream bridge and host-local
// plugins (SCENARIOS B6). flanneld on h2 is the other end.
func TestCNI(t *testing.T) {
	for _, dp := range dataplanes {
		t.Run(dp.name, func(t *testing.T) {
			c := up(t, mode{backend: topology.EncapVXLAN}, dp, 2)
			h1, h2 := c.nodes[0], c.nodes[1]
			h2.flanneld.start(t)
			h1.bpfnet.start(t, "--ip-masq")
			p := newCNI(t, h1)
			addr := p.add(t)
			equal(t, "MTU, and masquerading by the bridge plugin", delegated{1450, false}, p.delegated(t))
			if mtu := run(t, p.container, "cat", "/sys/class/net/eth0/mtu"); strings.TrimSpace(mtu) != "1450" {
				t.Errorf("the container's MTU is %s", mtu)
			}
			meet(t, p.container, h2.container().Addr)
			meet(t, h2.container().NS, addr)
			noError(t, lab.TransferTCP(t.Context(), p.container, h2.container().NS, h2.container().Addr, 1<<20))
			noError(t, lab.TransferTCP(t.Context(), h2.container().NS, p.container, addr, 1<<20))
			p.remove(t)

			h1.bpfnet.stop(t)
			h1.bpfnet.start(t)
			p.add(t)
			equal(t, "without --ip-masq", delegated{1450, true}, p.delegated(t))
			p.remove(t)
		})
	}
}

// cni is the plugins' way to a container of a node.
type cni struct {
	node      *node
	container lab.Namespace
	dir       string // of the plugins' own files
}

// delegated is what the flannel plugin asks the bridge plugin for.
type delegated struct {
	MTU    int  `json:"mtu"`
	IPMasq bool `json:"ipMasq"`
}

// newCNI takes the links of the lab's container and its bridge away, for the
// plugins make their own.
func newCNI(t *testing.T, n *node) *cni {
	t.Helper()
	run(t, n.NS, "ip", "link", "delete", n.container().Veth)
	run(t, n.NS, "ip", "link", "delete", n.Bridge)
	return &cni{n, n.container().NS, t.TempDir()}
}

const cniContainer = "c1"

// call runs the flannel plugin as a container runtime does (CNI specification, "Execution Protocol").
func (p *cni) call(t *testing.T, command string) []byte {
	t.Helper()
	config := fmt.Sprintf(`{"cniVersion":"0.3.1","name":"cbr0","type":"flannel","subnetFile":%q,"dataDir":%q,
		"ipam":{"dataDir":%q},"delegate":{"hairpinMode":true,"isDefaultGateway":true}}`,
		p.node.SubnetFile(), filepath.Join(p.dir, "flannel"), filepath.Join(p.dir, "networks"))
	cmd := p.node.NS.Command(t.Context(), filepath.Join(cniDir, "flannel"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+cniContainer,
		"CNI_NETNS=/run/netns/"+string(p.container), "CNI_IFNAME=eth0", "CNI_PATH="+cniDir)
	cmd.Stdin = strings.NewReader(config)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s%s", command, err, out, &stderr)
	}
	return out
}

// add gives the container its interface and returns its address.
func (p *cni) add(t *testing.T) netip.Addr {
	t.Helper()
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	noError(t, json.Unmarshal(p.call(t, "ADD"), &result))
	if len(result.IPs) != 1 || !p.node.Subnet.Contains(result.IPs[0].Address.Addr()) {
		t.Fatalf("the container's addresses are %v, want one of %v", result.IPs, p.node.Subnet)
	}
	return result.IPs[0].Address.Addr()
}

// remove takes the interface away, and nothing of it stays.
func (p *cni) remove(t *testing.T) {
	t.Helper()
	p.call(t, "DEL")
	if out, err := p.container.Run(t.Context(), "ip", "link", "show", "eth0"); err == nil {
		t.Errorf("after DEL: %s", out)
	}
	left, err := filepath.Glob(filepath.Join(p.dir, "flannel", "*"))
	noError(t, err)
	addresses, err := filepath.Glob(filepath.Join(p.dir, "networks", "*", "*.*.*.*"))
	noError(t, err)
	equal(t, "files after DEL", []string(nil), append(left, addresses...))
}

func (p *cni) delegated(t *testing.T) (d delegated) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, "flannel", cniContainer))
	noError(t, err)
	noError(t, json.Unmarshal(data, &d))
	return d
}
