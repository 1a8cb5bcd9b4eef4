// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDaemonRefusesFlags before anything is touched: the run directory is not even made.
func TestDaemonRefusesFlags(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"margin of nothing":         {[]string{"--subnet-lease-renew-margin=0"}, "--subnet-lease-renew-margin 0: must be from 1 to"},
		"margin below nothing":      {[]string{"--subnet-lease-renew-margin=-5"}, "--subnet-lease-renew-margin -5: must be from 1 to"},
		"margin of the whole day":   {[]string{"--subnet-lease-renew-margin=1440"}, "--subnet-lease-renew-margin 1440: must be from 1 to"},
		"public IP":                 {[]string{"--public-ip=host1"}, "--public-ip: "},
		"address to reach":          {[]string{"--iface-can-reach=8.8.8"}, "--iface-can-reach: "},
		"health address":            {[]string{"--healthz-ip=any"}, "--healthz-ip: "},
		"health port":               {[]string{"--healthz-port=65536"}, `invalid argument "65536" for "--healthz-port" flag`},
		"log level":                 {[]string{"--log-level=loud"}, `--log-level "loud": debug, info, warn or error`},
		"log format":                {[]string{"--log-format=xml"}, `--log-format "xml": text or json`},
		"size that is no number":    {[]string{"--max-hosts=-1"}, `invalid argument "-1" for "--max-hosts" flag`},
		"init config":               {[]string{`--etcd-init-config={"Network":"10.5.0.0/40"}`}, `--etcd-init-config: bad network config: Network "10.5.0.0/40" is no network`},
		"init config of others":     {[]string{`--etcd-init-config={"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}`}, `--etcd-init-config: bad network config: Backend.Type "wireguard" is not supported`},
		"etcd to listen, but none":  {[]string{"--etcd-embedded-listen=http://127.0.0.1:2379"}, "--etcd-embedded-listen: is for --etcd-embedded"},
		"etcd that listens nowhere": {[]string{"--etcd-embedded=x", "--etcd-embedded-listen=127.0.0.1:2379"}, `--etcd-embedded-listen "127.0.0.1:2379": is no URL to listen on`},
		"etcd with TLS":             {[]string{"--etcd-embedded=x", "--etcd-embedded-listen=https://127.0.0.1:2379"}, `--etcd-embedded-listen "https://127.0.0.1:2379": is no URL`},
		"endpoint of no etcd":       {[]string{"--etcd-endpoints=ftp://etcd"}, `--etcd-endpoints and their files: endpoint "ftp://etcd" is no URL`},
		"certificate without key":   {[]string{"--etcd-endpoints=https://etcd:2379", "--etcd-certfile=x"}, "--etcd-endpoints and their files: certificate and key belong together"},
		"expression that is none":   {[]string{"--iface-regex=["}, "--iface-regex: error parsing regexp"},
		"dataplane":                 {[]string{"--dataplane=iptables"}, "--dataplane: "},
		"no room for a peer":        {[]string{"--max-hosts=2"}, "--max-hosts 2: must be at least 3"},
		"no room for containers":    {[]string{"--max-endpoints=0"}, "--max-endpoints 0: must be at least 1"},
		"unknown flag":              {[]string{"--no-such"}, "unknown flag: --no-such"},
		"argument":                  {[]string{"eth0"}, `unknown argument "eth0": there are flags alone`},
		"value of a switch":         {[]string{"--ip-masq", "false"}, `unknown argument "false": there are flags alone, and the value of a switch is written --ip-masq=true`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			runDir := filepath.Join(t.TempDir(), "run")
			root := newRootCommand()
			root.SetArgs(append([]string{"daemon", "--run-dir", runDir}, test.args...))
			err := root.ExecuteContext(t.Context())
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line that begins with %q", err, test.want)
			}
			if _, err := os.Stat(runDir); !os.IsNotExist(err) {
				t.Errorf("the run directory was made: %v", err)
			}
		})
	}
}

func TestAddrFlag(t *testing.T) {
	for value, want := range map[string]netip.Addr{
		"":            {},
		"192.0.2.1":   netip.MustParseAddr("192.0.2.1"),
		"2001:db8::1": netip.MustParseAddr("2001:db8::1"),
	} {
		if got, err := addrFlag("public-ip", value); err != nil || got != want {
			t.Errorf("--public-ip %q is %v, %v; want %v", value, got, err, want)
		}
	}
}

func TestNewLogger(t *testing.T) {
	for level, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError, "WARN": slog.LevelWarn,
	} {
		for _, format := range []string{"text", "json"} {
			log, err := newLogger(level, format)
			if err != nil {
				t.Fatal(err)
			}
			if !log.Enabled(context.Background(), want) || log.Enabled(context.Background(), want-1) {
				t.Errorf("--log-level %s --log-format %s: not from %s on", level, format, want)
			}
		}
	}
}
