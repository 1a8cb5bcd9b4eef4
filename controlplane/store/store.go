// SPDX-License-Identifier: Apache-2.0

// Package store keeps to flannel's schema in etcd: the network's
// configuration, the nodes' subnet leases and subnet.env.
//
// All operations wait for an etcd that is away and return only when their
// context ends, when they have succeeded, or when etcd refuses them for good
// (a wrong password, a missing permission).
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/bpfnet/bpfnet/controlplane/store/internal/zapslog"
)

// DefaultPrefix is where flannel keeps its keys.
const DefaultPrefix = "/coreos.com/network"

// DefaultLeaseTTL is how long flannel's leases live without being renewed.
const DefaultLeaseTTL = 24 * time.Hour

const (
	rpcTimeout       = 10 * time.Second // of one request and its answer
	keepaliveTime    = 10 * time.Second // after this long without traffic the connection is tried;
	keepaliveTimeout = 5 * time.Second  // after this much more it is given up
	retryMin         = 100 * time.Millisecond
	retryMax         = 3 * time.Second
)

// reconnect is how often a lost server is tried: gRPC's own two minutes between
// tries would be as long without news after etcd is back.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: retryMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryMax},
	MinConnectTimeout: rpcTimeout,
}

// Options says which etcd to use and how. The zero value of each field but
// Endpoints is its default.
type Options struct {
	Endpoints []string // "http://127.0.0.1:2379"; all http or all https, and where they do not say: https if there are TLS files
	Prefix    string   // default DefaultPrefix

	CAFile            string // signs the servers' certificates; default the system's
	CertFile, KeyFile string // this client's certificate, read again at each connection
	Username          string
	Password          string

	LeaseTTL time.Duration // whole seconds; default DefaultLeaseTTL
	Logger   *slog.Logger  // default none
	Outage   func(error)   // is told what is wrong with etcd, which is logged already, and nil once it is over; default none
}

// Store is a connection to etcd. Its methods may be called concurrently.
type Store struct {
	cli      *clientv3.Client
	log      *slog.Logger
	outage   *outage
	ready    signal // fired whenever the connection is there again
	leaseTTL time.Duration

	config  string // key of the network's configuration
	subnets string // what the keys of leases start with

	mu       sync.Mutex
	acquired *listing // by Acquire, for Watch

	ctx  context.Context // until Close
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Open prepares the use of etcd. It does not wait for etcd to be there, except
// where a user has to be authenticated. Close frees what it takes.
func Open(ctx context.Context, o Options) (*Store, error) {
	o.Endpoints = o.urls()
	tlsConfig, err := o.tlsConfig()
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if o.Outage == nil {
		o.Outage = func(error) {}
	}
	prefix := o.Prefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	s := &Store{
		log:      log,
		outage:   &outage{log: log.With("endpoints", strings.Join(o.Endpoints, ",")), tell: o.Outage},
		leaseTTL: o.LeaseTTL,
		config:   path.Join(prefix, "config"),
		subnets:  path.Join(prefix, "subnets") + "/",
	}
	if s.leaseTTL == 0 {
		s.leaseTTL = DefaultLeaseTTL
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	settled := context.AfterFunc(ctx, s.stop) // for New has no context of its own
	err = s.retry(ctx, func(context.Context, func()) error {
		s.cli, err = clientv3.New(o.clientConfig(s.ctx, tlsConfig, log))
		return err
	})
	if !settled() && err == nil {
		_ = s.cli.Close() // says only that it was cancelled
		err = ctx.Err()
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	s.wg.Go(func() { s.monitor(s.ctx) })
	return s, nil
}

// Close ends the connection. What still uses it returns an error.
func (s *Store) Close() error {
	s.stop()
	s.wg.Wait()
	if err := s.cli.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd: %w", err)
	}
	return nil
}

func (o Options) clientConfig(ctx context.Context, tlsConfig *tls.Config, log *slog.Logger) clientv3.Config {
	return clientv3.Config{
		Context:              ctx,
		Endpoints:            o.Endpoints,
		TLS:                  tlsConfig,
		Username:             o.Username,
		Password:             o.Password,
		DialKeepAliveTime:    keepaliveTime,
		DialKeepAliveTimeout: keepaliveTimeout,
		// Enough to fetch a new token; retry, which knows about logging, does the rest.
		MaxUnaryRetries: 2,
		Logger:          zapslog.New(log.With("component", "etcd-client")),
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(reconnect),
			grpc.WithChainUnaryInterceptor(impatient),
		},
	}
}

// impatient bounds each request, so that none outlives the server it went to,
// and has it fail at once, with the reason, where there is no connection: it is
// retry that waits, and that says so.
func impatient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// urls returns the endpoints with their schemes. flannel's users may write
// HOST:PORT alone, as to any client of etcd's.
func (o Options) urls() []string {
	scheme := "http://"
	if o.CAFile+o.CertFile+o.KeyFile != "" {
		scheme = "https://"
	}
	all := slices.Clone(o.Endpoints)
	for i, e := range all {
		if _, port, err := net.SplitHostPort(e); err == nil && !strings.Contains(port, "/") {
			all[i] = scheme + e
		}
	}
	return all
}

// Validate checks endpoints and the names of files against each other, for a mistake
// there would else send passwords in the clear or end in an obscure handshake error.
func (o Options) Validate() error {
	o.Endpoints = o.urls()
	if len(o.Endpoints) == 0 {
		return errors.New("no endpoints given: give at least one, such as http://127.0.0.1:2379")
	}
	secure := strings.HasPrefix(o.Endpoints[0], "https://")
	for _, e := range o.Endpoints {
		isTLS, isPlain := strings.HasPrefix(e, "https://"), strings.HasPrefix(e, "http://")
		if !isTLS && !isPlain {
			return fmt.Errorf("endpoint %q is no URL: give one such as http://127.0.0.1:2379", e)
		}
		if isTLS != secure {
			return fmt.Errorf("endpoints %q mix http and https: give all alike", o.Endpoints)
		}
	}
	files := o.CAFile + o.CertFile + o.KeyFile
	switch {
	case !secure && files != "":
		return fmt.Errorf("TLS files are given, but endpoint %q is plain: write it https://", o.Endpoints[0])
	case (o.CertFile == "") != (o.KeyFile == ""):
		return errors.New("certificate and key belong together: give both files or none")
	}
	return nil
}

// tlsConfig reads the files. It is nil where etcd is reached without TLS.
func (o Options) tlsConfig() (*tls.Config, error) {
	if err := o.Validate(); err != nil || strings.HasPrefix(o.Endpoints[0], "http://") {
		return nil, err
	}
	info := transport.TLSInfo{CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.CAFile}
	c, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read TLS files: %w", err)
	}
	return c, nil
}
