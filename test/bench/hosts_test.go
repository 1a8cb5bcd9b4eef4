// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

const short = 100 * time.Millisecond

// serve is bench serve on this host, until the test ends.
func serve(t *testing.T, binary string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var said bytes.Buffer
	wg.Go(func() {
		if err := Serve(ctx, l, binary, &said); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if said.Len() > 0 {
			t.Errorf("agents say: %s", said.String())
		}
	})
	return l.Addr().String()
}

// TestTwoHosts: this host is both. One target has the name of a mode that others are compared with.
func TestTwoHosts(t *testing.T) {
	o := options(t)
	control := serve(t, o.Binary)
	var steps []Step
	o.Progress = func(s Step) { steps = append(steps, s) }
	r, err := RunTo(t.Context(), o, []Target{
		{"host", netip.MustParseAddr("127.0.0.1"), control},
		{"overlay", netip.MustParseAddr("127.0.0.2"), control},
	})
	if err != nil {
		t.Fatal(err)
	}
	possible, absent := withoutUplink(Loads())
	check(t, r, []string{"host", "overlay"}, possible)
	if len(absent) != 2 || len(r.Absent) != 2 || len(r.Tax) != 0 || r.Machine.Peer != control {
		t.Errorf("absent %v, tax %v, peer %q, want the two loads that change offloads, none, and %s", r.Absent, r.Tax, r.Machine.Peer, control)
	}
	if _, ok := r.Machine.Offloads[gro]; !ok {
		t.Errorf("offloads are %v, want those of lo", r.Machine.Offloads)
	}
	for i, s := range steps {
		if s.Done != i || s.Total != 2*len(possible) || s.Left <= 0 {
			t.Errorf("step %d is %+v, of %d", i, s, 2*len(possible))
		}
	}
}

// answering is a server that says the same to everybody.
func answering(t *testing.T, what string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err = io.WriteString(conn, what); err == nil {
				_, err = io.Copy(io.Discard, conn)
			}
			if err = errors.Join(err, conn.Close()); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return l.Addr().String()
}

// going is a server that ends once it has said what bench serve says first.
func going(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		// Each request is a line, and the second one is read too: closed with bytes unread, a connection is reset.
		in := bufio.NewScanner(conn)
		in.Scan()
		_, err = io.WriteString(conn, `{"Protocol":1}`)
		in.Scan()
		if err = errors.Join(err, conn.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return l.Addr().String()
}

func TestTwoHostsRefused(t *testing.T) {
	o := options(t)
	control := serve(t, o.Binary)
	local := netip.MustParseAddr("127.0.0.1")
	uplink, err := LoadsNamed([]string{"tcp_stream_notso"})
	if err != nil {
		t.Fatal(err)
	}
	stranger, strange := netip.MustParseAddr("192.0.2.1"), "is it an address of this host?" // RFC 5737
	if _, err := towards(stranger); err != nil {
		strange = "find the interface towards 192.0.2.1" // where there is no default route
	}
	for name, test := range map[string]struct {
		target Target
		loads  []Load
		want   string
	}{
		"nobody serves":           {Target{"host", local, "127.0.0.1:1"}, o.Loads, "does it run there?"},
		"an address not of there": {Target{"host", stranger, control}, o.Loads, strange},
		"another service":         {Target{"host", local, answering(t, "SSH-2.0-OpenSSH_9.9\r\n")}, o.Loads, "talk to bench serve (is it that, of this version?): ask bench serve at 127.0.0.1:"},
		"another version":         {Target{"host", local, answering(t, `{"Protocol":99}`)}, o.Loads, "use one version of bpfnet on both hosts"},
		"one that goes away":      {Target{"host", local, going(t)}, o.Loads, "to listen: it has ended: EOF"},
		"no load left":            {Target{"host", local, control}, uplink, "nothing to measure"},
	} {
		o.Loads = test.loads
		_, err := RunTo(t.Context(), o, []Target{test.target})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, test.want)
		}
	}
}
