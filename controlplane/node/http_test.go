// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
)

// freePort is a port of loopback on which nobody listens.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestHealthz: answered by a daemon that can do nothing yet, for want of an uplink.
func TestHealthz(t *testing.T) {
	o := Options{RunDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Healthz: freePort(t)}
	o.Underlay.Iface = []string{"no-such-uplink"}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()

	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	code := func(path string) int {
		resp, err := client.Get(fmt.Sprintf("http://%s%s", o.Healthz, path))
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	waitFor(t, func() bool { return code("/healthz") == http.StatusOK })
	if got := code("/status"); got != http.StatusNotFound {
		t.Errorf("GET /status: code %d: the status is the control socket's alone", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := code("/healthz"); got != 0 {
		t.Errorf("code %d of a daemon that has ended", got)
	}
}

func TestHealthzPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := Options{RunDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	o.Healthz = netip.MustParseAddrPort(l.Addr().String())
	if err := Run(t.Context(), o); err == nil {
		t.Error("no error of a port that another has")
	}
}
