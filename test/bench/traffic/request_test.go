// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"testing"
)

// FuzzRequest: what a request that is not refused asks for can be run, whoever sent it.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"Do":"listen","Spec":{"Kind":"udp-rr","Flows":32,"Size":1},"Core":1,"Addr":"172.246.0.2"}`))
	f.Add([]byte(`{"Do":"dial","Spec":{"Kind":"tcp-stream","Flows":1,"Size":131072},"Addr":"::1","Ports":[9]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q request
		a := agent{cores: []int{0, 1}}
		if json.Unmarshal(b, &q) != nil || a.ready(q) != nil {
			return
		}
		p := patterns[q.Spec.Kind]
		if p.listen == nil || p.dial == nil || p.ports(q.Spec) < 1 || p.ports(q.Spec) > maxFlows || a.cpu(q) > 1 {
			t.Errorf("%s is taken", b)
		}
	})
}
