// SPDX-License-Identifier: Apache-2.0

// Package embedded runs an etcd server of one member inside this process, for
// clusters that have no etcd of their own.
package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"sync"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"github.com/bpfnet/bpfnet/controlplane/store/internal/zapslog"
)

// DefaultClientURL is where a server listens that is told nothing else.
const DefaultClientURL = "http://127.0.0.1:2379"

// Options says where a server keeps its data and listens. The zero value of
// each field but Dir is its default.
type Options struct {
	Dir        string   // of the data; made where it is missing
	ClientURLs []string // to listen on, "http://192.0.2.1:2379"; port 0 takes a free one; default DefaultClientURL
	Name       string   // of the member; default "bpfnet"
	Logger     *slog.Logger
	NoSync     bool // do not wait for the disk, for data that may be lost with the machine: labs and tests

	// For https URLs: the server's certificate, and what signs those of clients, which then need one.
	CertFile, KeyFile, CAFile string
}

// Server is a running server.
type Server struct {
	etcd   *embed.Etcd
	scheme string

	mu   sync.Mutex
	grpc []*grpc.Server // one a listener

	closeOnce func() error
}

// Start runs a server and returns when it serves. A server started again on
// the same Dir goes on with the data there. Close stops it.
func Start(ctx context.Context, o Options) (*Server, error) {
	c, err := config(o)
	if err != nil {
		return nil, fmt.Errorf("start embedded etcd: %w", err)
	}
	s := &Server{scheme: c.ListenClientUrls[0].Scheme}
	c.ServiceRegister = func(g *grpc.Server) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.grpc = append(s.grpc, g)
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("start embedded etcd in %s: %w", o.Dir, err)
	}
	s.etcd = e
	s.closeOnce = sync.OnceValue(s.close)
	select {
	case <-e.Server.ReadyNotify():
		return s, nil
	case err = <-e.Err():
	case <-e.Server.StopNotify():
		err = errors.New("it stopped at once")
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(fmt.Errorf("start embedded etcd in %s: %w", o.Dir, err), s.Close())
}

// config translates Options. What it says of peers is for a member that has
// none and never will: it listens for no peers.
func config(o Options) (*embed.Config, error) {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := embed.NewConfig()
	c.Dir = o.Dir
	c.Name = o.Name
	if c.Name == "" {
		c.Name = "bpfnet"
	}
	urls := o.ClientURLs
	if len(urls) == 0 {
		urls = []string{DefaultClientURL}
	}
	c.ListenClientUrls, c.ListenPeerUrls = nil, nil
	for i, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Port() == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("client URL %q is none to listen on: give one such as %q", s, DefaultClientURL)
		}
		if i > 0 && u.Scheme != c.ListenClientUrls[0].Scheme {
			return nil, fmt.Errorf("client URLs %q mix http and https: give all alike", urls)
		}
		c.ListenClientUrls = append(c.ListenClientUrls, *u)
	}
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// A cluster that is set up anew shall not be taken for the one before it.
	c.InitialClusterToken = rand.Text()
	c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = o.CertFile, o.KeyFile
	c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = o.CAFile, o.CAFile != ""
	c.UnsafeNoFsync = o.NoSync
	// A single member has nobody to wait for when it elects itself.
	c.TickMs, c.ElectionMs = 10, 100
	// Old revisions serve watchers that were away for a while; those away for longer list again.
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapslog.New(log.With("component", "etcd-server")))
	return c, os.MkdirAll(o.Dir, 0o700)
}

// Endpoints returns the URLs of the server for clients on this host, sorted.
func (s *Server) Endpoints() []string {
	var out []string
	for _, l := range s.etcd.Clients {
		host := l.Addr().String()
		if a, err := netip.ParseAddrPort(host); err == nil && a.Addr().IsUnspecified() {
			host = fmt.Sprintf("127.0.0.1:%d", a.Port())
		}
		out = append(out, s.scheme+"://"+host)
	}
	slices.Sort(out)
	return out
}

// Wait returns when the server has ended, by Close or by a failure that it
// could not go on with, and says why, or with ctx. Close is due all the same.
func (s *Server) Wait(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err = <-s.etcd.Err(): // nil once closed
	case <-s.etcd.Server.StopNotify():
	}
	if err == nil {
		return errors.New("embedded etcd: stopped")
	}
	return fmt.Errorf("embedded etcd: %w", err)
}

// Close stops the server and returns what went wrong while it ran. To close it
// again is to be told the same.
func (s *Server) Close() error { return s.closeOnce() }

func (s *Server) close() error {
	var errs []error
	for len(s.etcd.Err()) != 0 {
		errs = append(errs, fmt.Errorf("embedded etcd: %w", <-s.etcd.Err()))
	}
	// etcd itself would give its watchers seconds to leave, and they never do.
	s.mu.Lock()
	for _, g := range s.grpc {
		g.Stop()
	}
	s.mu.Unlock()
	s.etcd.Close()
	return errors.Join(errs...)
}
