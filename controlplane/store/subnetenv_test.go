// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSubnetEnv(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  SubnetEnv
		want string
	}{
		{"IPv4", SubnetEnv{Network: prefix("172.244.0.0/14"), Subnet: prefix("172.245.0.0/24"), MTU: 1450},
			"FLANNEL_NETWORK=172.244.0.0/14\nFLANNEL_SUBNET=172.245.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"},
		{"dual stack", SubnetEnv{Network: prefix("172.244.0.0/14"), Subnet: prefix("172.245.0.0/24"),
			IPv6Network: prefix("2001:db8:42::/56"), IPv6Subnet: prefix("2001:db8:42:1::/64"), MTU: 1400, IPMasq: true},
			"FLANNEL_NETWORK=172.244.0.0/14\nFLANNEL_SUBNET=172.245.0.1/24\n" +
				"FLANNEL_IPV6_NETWORK=2001:db8:42::/56\nFLANNEL_IPV6_SUBNET=2001:db8:42:1::1/64\n" +
				"FLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "run", "flannel", "subnet.env")
			for range 2 { // the second time over the first
				if err := tt.env.Write(path); err != nil {
					t.Fatal(err)
				}
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(data)); diff != "" {
				t.Errorf("file (-want +got):\n%s", diff)
			}
			got, err := ReadSubnetEnv(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.env, got, compareAddrs); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != 0o644 {
				t.Errorf("mode is %v, want -rw-r--r--", info.Mode())
			}
			entries, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(entries) != 1 {
				t.Errorf("directory holds %v, error %v, want the file alone", entries, err)
			}
		})
	}
}

func TestReadSubnetEnv(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subnet.env")
	if _, err := ReadSubnetEnv(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: error %v is no ErrNotExist", err)
	}
	for _, tt := range []struct {
		name, file string
		want       SubnetEnv
		err        string
	}{
		{name: "edited by hand", file: "# docker\n\n FLANNEL_SUBNET = \"172.245.0.1/24\"\nOTHER=1\nrubbish\nFLANNEL_MTU=1450",
			want: SubnetEnv{Subnet: prefix("172.245.0.0/24"), MTU: 1450}},
		{name: "quoted", file: "FLANNEL_SUBNET=\"172.245.0.1/24\"\r\nOTHER=1\nrubbish\nFLANNEL_MTU=1450",
			want: SubnetEnv{Subnet: prefix("172.245.0.0/24"), MTU: 1450}},
		{name: "exported", file: "export FLANNEL_SUBNET=172.245.0.1/24\n", want: SubnetEnv{Subnet: prefix("172.245.0.0/24")}},
		{name: "empty", file: ""},
		{name: "bad subnet", file: "FLANNEL_SUBNET=172.245.0.1\n", err: `FLANNEL_SUBNET "172.245.0.1" cannot be read`},
		{name: "bad MTU", file: "FLANNEL_MTU=big\n", err: `FLANNEL_MTU "big" cannot be read`},
		{name: "bad masquerading", file: "FLANNEL_IPMASQ=maybe\n", err: `FLANNEL_IPMASQ "maybe" cannot be read`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadSubnetEnv(path)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error is %v, want one with %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("subnet.env (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWriteSubnetEnvError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (SubnetEnv{}).Write(filepath.Join(file, "subnet.env")); err == nil {
		t.Error("written below a plain file")
	}
}

// TestWriteSubnetEnvErrorIsTheSameEachTime: else the log would have it again at each attempt.
func TestWriteSubnetEnvErrorIsTheSameEachTime(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{
		"no room beside it for a longer name": filepath.Join(dir, strings.Repeat("x", 255)),
		"a directory has its place":           dir,
	} {
		first, second := SubnetEnv{}.Write(path), SubnetEnv{}.Write(path)
		if first == nil || second == nil || first.Error() != second.Error() || !strings.Contains(first.Error(), path) {
			t.Errorf("%s: errors %v and %v, want the same twice, with the file's name", name, first, second)
		}
	}
}

func FuzzParseSubnetEnv(f *testing.F) {
	f.Add([]byte("FLANNEL_NETWORK=172.244.0.0/14\nFLANNEL_SUBNET=172.245.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseSubnetEnv(data)
		if err != nil || !e.Network.IsValid() || !e.Subnet.IsValid() || e.IPv6Network.IsValid() != e.IPv6Subnet.IsValid() {
			return
		}
		again, err := parseSubnetEnv(e.encode())
		if err != nil || again != e {
			t.Errorf("%q became %+v, then %q became %+v, error %v", data, e, e.encode(), again, err)
		}
	})
}

// TestWriteSubnetEnvToDevice: whoever names /dev/null wants no file, and still wants /dev/null.
func TestWriteSubnetEnvToDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subnet.env")
	if err := os.Symlink(os.DevNull, path); err != nil {
		t.Fatal(err)
	}
	if err := (SubnetEnv{Subnet: prefix("172.245.0.0/24"), Network: prefix("172.244.0.0/14"), MTU: 1450}).Write(path); err != nil {
		t.Error(err)
	}
	if to, err := os.Readlink(path); err != nil || to != os.DevNull {
		t.Errorf("it is a link to %q, error %v, want %s as before", to, err, os.DevNull)
	}
}
