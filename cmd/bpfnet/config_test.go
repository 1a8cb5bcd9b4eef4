// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/store"
)

// executeWith is execute with a standard input, and returns standard error too.
func executeWith(t *testing.T, stdin string, args ...string) (out, errs string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	root := newRootCommand()
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&o)
	root.SetErr(&e)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

func TestConfigGet(t *testing.T) {
	for name, tt := range map[string]struct{ json, out, errs, err string }{
		"good":          {vxlanConfig, vxlanConfig + "\n", "", ""},
		"with newline":  {vxlanConfig + "\n", vxlanConfig + "\n", "", ""},
		"not supported": {`{"Network":"10.5.0.0/16","Baked":1}`, `{"Network":"10.5.0.0/16","Baked":1}` + "\n", `"Baked": misspelt?`, ""},
		"bad":           {"x", "x\n", "", "bad network config: not JSON"},
		"none":          {"", "", "", "no network config in etcd: write one by"},
	} {
		t.Run(name, func(t *testing.T) {
			keys := map[string]string{}
			if tt.json != "" {
				keys["config"] = tt.json
			}
			endpoint, _ := etcdServer(t, keys)
			out, errs, err := executeWith(t, "", "config", "get", "--etcd-endpoints", endpoint)
			if out != tt.out || !strings.Contains(errs, tt.errs) || (tt.errs == "") != (errs == "") ||
				tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err)) {
				t.Errorf("%q, %q, error %v", out, errs, err)
			}
		})
	}
}

func TestConfigSet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "net-conf.json")
	if err := os.WriteFile(file, []byte(vxlanConfig+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const other = `{"Network":"10.5.0.0/17","Backend":{"Type":"vxlan","Learning":true}}`
	leases := map[string]string{"subnets/10.5.1.0-24": vxlanLease1, "!subnets/10.5.200.0-24": toCome, "!subnets/rubbish": "x"}
	for name, tt := range map[string]struct {
		old    string
		leases map[string]string
		stdin  string
		args   []string
		out    []string // in its lines
		err    string
		want   string // what etcd then holds
	}{
		"the first":           {args: []string{vxlanConfig}, out: []string{"Network: none -> 10.5.0.0/16", "Backend.Type: none -> vxlan"}, want: vxlanConfig},
		"from a file":         {args: []string{"-f", file}, out: []string{"Backend.Port: 0 -> 8472"}, want: vxlanConfig + "\n"},
		"from standard input": {stdin: other, args: []string{"--file", "-"}, out: []string{"SubnetMax: none -> 10.5.127.0"}, want: other},
		"the same":            {old: vxlanConfig, leases: leases, args: []string{vxlanConfig}, out: []string{"nothing changes"}, want: vxlanConfig},
		"the same, spaced":    {old: vxlanConfig, leases: leases, args: []string{vxlanConfig + " "}, out: []string{"nothing changes"}, want: vxlanConfig + " "},
		"in place of a bad one": {old: "x", leases: map[string]string{"subnets/10.5.1.0-24": vxlanLease1}, args: []string{vxlanConfig},
			out: []string{"Network: none -> 10.5.0.0/16"}, want: vxlanConfig},
		"a larger network": {old: other, leases: map[string]string{"subnets/10.5.1.0-24": vxlanLease1}, args: []string{vxlanConfig},
			out: []string{"Network: 10.5.0.0/17 -> 10.5.0.0/16", "Backend.Learning: true -> false"}, want: vxlanConfig},
		"a smaller network": {old: vxlanConfig, leases: leases, args: []string{other},
			out: []string{"node 192.168.64.4 loses subnet 10.5.200.0/24 and gets another: its containers have to be started anew"},
			err: "not written: nodes would be cut off", want: vxlanConfig},
		"a smaller network by force": {old: vxlanConfig, leases: leases, args: []string{"--force", other},
			out: []string{"SubnetMax: 10.5.255.0 -> 10.5.127.0"}, want: other},
		"another backend": {old: vxlanConfig, leases: leases, args: []string{`{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}`},
			out: []string{"what nodes send changes (of 1): bpfnet's at once; flanneld's when they are restarted, " +
				"and until then they and the others do not understand each other"},
			err: "not written: nodes would be cut off", want: vxlanConfig},
		"another backend, of nobody": {old: vxlanConfig, args: []string{`{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}`},
			out: []string{"Backend.Type: vxlan -> ipip"}, want: `{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}`},
		"tried": {old: vxlanConfig, leases: leases, args: []string{"--dry-run", other},
			out: []string{"Network: 10.5.0.0/16 -> 10.5.0.0/17"}, want: vxlanConfig},
		"not JSON":      {old: vxlanConfig, args: []string{"{"}, err: "bad network config: not JSON", want: vxlanConfig},
		"bad":           {old: vxlanConfig, args: []string{"{}", "--force"}, err: "bad network config: Network is missing", want: vxlanConfig},
		"nothing given": {old: vxlanConfig, err: "give the config as one argument", want: vxlanConfig},
		"given twice":   {old: vxlanConfig, args: []string{other, "-f", file}, err: "give the config as one argument", want: vxlanConfig},
		"no such file":  {old: vxlanConfig, args: []string{"-f", file + "x"}, err: "open " + file + "x: no such file", want: vxlanConfig},
		"two arguments": {old: vxlanConfig, args: []string{"{}", "{}"}, err: "accepts at most 1 arg", want: vxlanConfig},
	} {
		t.Run(name, func(t *testing.T) {
			keys := map[string]string{}
			for k, v := range tt.leases {
				keys[k] = v
			}
			if tt.old != "" {
				keys["config"] = tt.old
			}
			endpoint, cli := etcdServer(t, keys)
			out, _, err := executeWith(t, tt.stdin, append([]string{"config", "set", "--etcd-endpoints", endpoint}, tt.args...)...)
			for _, line := range tt.out {
				if !strings.Contains("\n"+out, "\n"+line+"\n") {
					t.Errorf("no line %q in\n%s", line, out)
				}
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if value, _ := etcdKey(t, cli, "config"); value != tt.want {
				t.Errorf("etcd holds %s, want %s", value, tt.want)
			}
		})
	}
}

// TestConfigErrors: what a user gets wrong is one line.
func TestConfigErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"endpoint that is none": {[]string{"--etcd-endpoints", "127.0.0.1"}, `open etcd: endpoint "127.0.0.1" is no URL`},
		"no endpoint":           {[]string{"--etcd-endpoints", ""}, "open etcd: no endpoints given"},
		"TLS without https":     {[]string{"--etcd-endpoints", "http://127.0.0.1:1", "--etcd-cafile", "x"}, "open etcd: TLS files are given"},
		"no such CA":            {[]string{"--etcd-endpoints", "https://127.0.0.1:1", "--etcd-cafile", "/no/such"}, "open etcd: read TLS files: open /no/such"},
	} {
		_, _, err := executeWith(t, "", append([]string{"config", "get"}, tt.args...)...)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want %s", name, err, tt.want)
		}
	}
}

func FuzzConfigChange(f *testing.F) {
	f.Add([]byte(vxlanConfig), []byte(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`), "10.5.1.0-24", []byte(vxlanLease1))
	f.Fuzz(func(t *testing.T, old, now []byte, key string, value []byte) {
		c, err := store.ParseConfig(now)
		if err != nil {
			return
		}
		was, _ := store.ParseConfig(old)
		l, bad := store.ParseLease(key, value)
		lines, _ := configChange{was, c, []store.Record{{Lease: l, Bad: bad}}}.effects()
		if len(lines) == 0 || strings.Contains(strings.Join(lines, ""), "\n") {
			t.Errorf("%q", lines)
		}
	})
}
