// SPDX-License-Identifier: Apache-2.0

package firewall

import "testing"

func TestDropsAll(t *testing.T) {
	for line, want := range map[string]bool{
		"-A FORWARD -j DROP":   true,
		"-A FORWARD -j REJECT": true,
		"-A FORWARD -j REJECT --reject-with icmp-host-prohibited":       true,
		"-A FORWARD -m comment --comment last -j DROP":                  true,
		`-A FORWARD -m comment --comment "the last rule" -j DROP`:       true,
		"-A FORWARD -i eth1 -j DROP":                                    false,
		"-A FORWARD -s 10.0.0.0/8 -j REJECT":                            false,
		"-A FORWARD -m conntrack --ctstate INVALID -j DROP":             false,
		`-A FORWARD -m comment --comment "not all" -i eth1 -j DROP`:     false,
		`-A FORWARD -m comment --comment "-j DROP" -i eth1 -j DROP-LOG`: false,
		"-A FORWARD -j DROP-LOG":                                        false,
		"-A FORWARD -j ACCEPT":                                          false,
		"-A FORWARD-OLD -j DROP":                                        false,
	} {
		if got := dropsAll.MatchString(line); got != want {
			t.Errorf("dropsAll(%s) = %v, want %v", line, got, want)
		}
	}
}
