// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestRecords compares what two nodes leave for others, in etcd and in
// subnet.env, byte by byte with what flannel writes there (SCENARIOS B1, B4;
// topology as TestOverlay).
func TestRecords(t *testing.T) {
	forEach(t, allModes, nil, func(t *testing.T, l *lab.Lab) {
		backend := l.Options.Backend
		data := map[topology.Encap]string{
			topology.EncapVXLAN: `,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"}}`,
			topology.EncapIPIP:  `,"BackendType":"ipip"}`,
			topology.EncapUDP:   `}`, // flannel's udp backend names none
			topology.EncapNone:  `,"BackendType":"host-gw"}`,
		}[backend]
		want := map[string]string{
			"/coreos.com/network/config": `{"Network":"172.244.0.0/14","SubnetLen":24,"Backend":{"Type":"` + string(backend) + `"}}`,
		}
		for _, h := range l.Hosts {
			value := fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null`, h.Addr) + data
			if backend == topology.EncapVXLAN {
				value = fmt.Sprintf(value, mac(t, h, "bpfnet0"))
			}
			want[fmt.Sprintf("/coreos.com/network/subnets/172.%d.0.0-24", 244+h.Number)] = value
			env := fmt.Sprintf("FLANNEL_NETWORK=172.244.0.0/14\nFLANNEL_SUBNET=172.%d.0.1/24\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=false\n",
				244+h.Number, l.Options.ContainerMTU())
			got, err := os.ReadFile(h.SubnetFile())
			noError(t, err)
			equal(t, "subnet.env of "+h.Name, env, string(got))
		}
		c := etcd(t, l)
		all, err := c.Get(t.Context(), "/", clientv3.WithPrefix())
		noError(t, err)
		got := map[string]string{}
		for _, kv := range all.Kvs {
			got[string(kv.Key)] = string(kv.Value)
			if strings.Contains(string(kv.Key), "/subnets/") {
				grant, err := c.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
				noError(t, err)
				if grant.GrantedTTL != 86400 {
					t.Errorf("%s is granted for %d s, want 24 hours", kv.Key, grant.GrantedTTL)
				}
			}
		}
		equal(t, "keys in etcd", want, got)
	})
}
