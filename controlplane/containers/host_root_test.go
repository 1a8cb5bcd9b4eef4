// SPDX-License-Identifier: Apache-2.0

//go:build root

package containers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The tests' node is a network namespace of its own; its containers are more:
//
//	node      br245 172.245.0.1/24 -- vethA ---- eth0 172.245.0.2/24   container
//	                               \- vethB ---- eth0 172.245.0.3/24   container
//	          route 172.245.0.5/32 -- vethR ---- eth0 172.245.0.5/32   container

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long the kernel and Watch may take for anything.
const patience = 10 * time.Second

var fixedMAC = net.HardwareAddr{2, 0, 0, 0, 2, 45}

// space is a network namespace.
type space struct {
	t  *testing.T
	ns netns.NsHandle
	*netlink.Handle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t}
	s.must(onThread(func() (err error) { s.ns, err = netns.New(); return err }))
	s.sysctl("ipv6/conf/default/disable_ipv6", "1") // no container speaks unless told to
	t.Cleanup(func() { s.must(s.ns.Close()) })
	var err error
	s.Handle, err = netlink.NewHandleAt(s.ns, unix.NETLINK_ROUTE)
	s.must(err)
	t.Cleanup(s.Close)
	return s
}

// onThread runs f on a thread that ends with it, and with it the namespace that
// f may have moved the thread to.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// do runs f inside the namespace.
func (s *space) do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(s.ns); err != nil {
			return err
		}
		return f()
	})
}

func (s *space) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) link(name string) netlink.Link {
	s.t.Helper()
	l, err := s.LinkByName(name)
	if err != nil {
		s.t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func (s *space) index(name string) int {
	s.t.Helper()
	return s.link(name).Attrs().Index
}

func (s *space) mac(name string) topology.MAC {
	s.t.Helper()
	return mac(s.link(name).Attrs().HardwareAddr)
}

func (s *space) up(name string) {
	s.t.Helper()
	s.must(s.LinkSetUp(s.link(name)))
}

func (s *space) down(name string) {
	s.t.Helper()
	s.must(s.LinkSetDown(s.link(name)))
}

func ipAddr(prefix string) *netlink.Addr {
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		panic(err)
	}
	if is6(prefix) {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func is6(address string) bool { return strings.Contains(address, ":") }

// addBridge makes a bridge; its MAC is fixed unless that is nil.
func (s *space) addBridge(name, prefix string, mac net.HardwareAddr) {
	s.t.Helper()
	s.must(s.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac}}))
	// An address that nobody answers for fails soon, not after seconds.
	for _, family := range []string{"ipv4", "ipv6"} {
		s.sysctl(family+"/neigh/"+name+"/retrans_time_ms", "10")
	}
	s.must(s.AddrAdd(s.link(name), ipAddr(prefix)))
	s.up(name)
}

// addContainer makes a namespace linked by the veth name, a port of the bridge
// master unless that is "".
func (s *space) addContainer(name, master, prefix string) *space {
	s.t.Helper()
	c := newSpace(s.t)
	if is6(prefix) {
		c.enable6()
	}
	s.must(s.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name},
		PeerName: "eth0", PeerNamespace: netlink.NsFd(c.ns)}))
	if master != "" {
		s.must(s.LinkSetMaster(s.link(name), s.link(master)))
	}
	s.up(name)
	s.must(c.AddrAdd(c.link("eth0"), ipAddr(prefix)))
	c.up("eth0")
	return c
}

// enable6 gives devices that are made from now on IPv6, whose addresses hold at once.
func (s *space) enable6() {
	s.t.Helper()
	for name, value := range map[string]string{"accept_dad": "0", "dad_transmits": "0", "router_solicitations": "0", "disable_ipv6": "0"} {
		s.sysctl("ipv6/conf/default/"+name, value)
	}
}

// addPort makes a veth with its other end in a namespace of its own, and a port of br245.
func (s *space) addPort(name string, mac net.HardwareAddr) {
	s.t.Helper()
	away := newSpace(s.t)
	attrs := netlink.LinkAttrs{Name: name, HardwareAddr: mac, MasterIndex: s.index("br245")}
	s.must(s.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(away.ns)}))
}

// speak sends a packet, which takes an ARP exchange first.
func (s *space) speak(to string) {
	s.t.Helper()
	s.must(s.do(func() error {
		conn, err := net.Dial("udp", net.JoinHostPort(to, "9"))
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("hello"))
		return errors.Join(err, conn.Close())
	}))
}

// exchange sends packets until one is answered, by an ICMP error: nobody listens. What either end
// learns of the other it knows then, and has no more to say.
func (s *space) exchange(to string) {
	s.t.Helper()
	s.must(s.do(func() error {
		conn, err := net.Dial("udp", net.JoinHostPort(to, "9"))
		if err != nil {
			return err
		}
		defer conn.Close()
		for deadline := time.Now().Add(patience); ; {
			if _, err = conn.Write([]byte("hello")); err == nil {
				err = conn.SetReadDeadline(time.Now().Add(time.Second))
			}
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
			if errors.Is(err, unix.ECONNREFUSED) {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("wait for an answer of %s: %w", to, err)
			}
		}
	}))
}

// routeTo gives the veth a host route.
func (s *space) routeTo(name, addr string) {
	s.t.Helper()
	s.must(s.RouteReplace(hostRouteOf(s.index(name), addr)))
}

func hostRouteOf(ifindex int, addr string) *netlink.Route {
	bits := "/32"
	if is6(addr) {
		bits = "/128"
	}
	return &netlink.Route{LinkIndex: ifindex, Scope: netlink.SCOPE_LINK, Dst: ipAddr(addr + bits).IPNet}
}

// sysctl writes a setting of the namespace.
func (s *space) sysctl(path, value string) {
	s.t.Helper()
	s.must(s.do(func() error { return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0) }))
}

// endpoint is where the container's address should be found.
func (s *space) endpoint(name string, c *space, addr, gateway string) Endpoint {
	s.t.Helper()
	return Endpoint{Addr: netip.MustParseAddr(addr), Ifindex: s.index(name), MAC: c.mac("eth0"), Gateway: s.mac(gateway)}
}

// watched is a Watch that runs inside a namespace.
type watched struct {
	t      *testing.T
	stop   context.CancelFunc
	ended  chan struct{}
	err    error
	mu     sync.Mutex
	states []State
	news   chan struct{}
}

func watchIn(s *space, o Options) *watched {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &watched{t: s.t, stop: stop, ended: make(chan struct{}), news: make(chan struct{}, 1)}
	go func() {
		defer close(w.ended)
		w.err = s.do(func() error { return Watch(ctx, o, w.take) })
	}()
	s.t.Cleanup(func() {
		stop()
		<-w.ended
		if !errors.Is(w.err, context.Canceled) {
			s.t.Errorf("Watch ended with %v, want context.Canceled", w.err)
		}
	})
	return w
}

func (w *watched) take(s State) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.states) > 0 && w.states[len(w.states)-1].equal(s) {
		w.t.Errorf("delivered twice: %+v", s)
	}
	w.states = append(w.states, s)
	select {
	case w.news <- struct{}{}:
	default:
	}
	return nil
}

func (w *watched) all() []State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.states
}

// await waits until the endpoints are those wanted.
func (w *watched) await(what string, want ...Endpoint) State {
	w.t.Helper()
	return w.until(what, func(s State) string { return cmp.Diff(want, s.Endpoints, compare...) })
}

// awaitLinks waits until the links are those wanted.
func (w *watched) awaitLinks(what string, want ...Link) State {
	w.t.Helper()
	return w.until(what, func(s State) string { return cmp.Diff(want, s.Links, compare...) })
}

func (w *watched) until(what string, diff func(State) string) State {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		last := "nothing delivered"
		if all := w.all(); len(all) > 0 {
			if last = diff(all[len(all)-1]); last == "" {
				return all[len(all)-1]
			}
		}
		select {
		case <-w.news:
		case <-w.ended:
			w.t.Fatalf("%s: Watch ended: %v", what, w.err)
		case <-deadline:
			w.t.Fatalf("%s: not within %s (-want +got):\n%s", what, patience, strings.TrimSpace(last))
		}
	}
}

// settled makes a change that must show, so that what came before it has been
// handled, and checks that the endpoints are those wanted.
func (w *watched) settled(s *space, what string, want ...Endpoint) {
	w.t.Helper()
	name := fmt.Sprint("probe", len(w.all()))
	s.addPort(name, net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}) // too high to become the bridge's MAC
	probe := Link{s.index(name), name}
	state := w.until(what, func(s State) string {
		for _, l := range s.Links {
			if l == probe {
				return ""
			}
		}
		return "no link " + name
	})
	if diff := cmp.Diff(want, state.Endpoints, compare...); diff != "" {
		w.t.Fatalf("%s: endpoints (-want +got):\n%s", what, diff)
	}
}
