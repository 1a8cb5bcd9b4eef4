// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
)

func TestOpenErrors(t *testing.T) {
	plain, secure := []string{"http://127.0.0.1:1"}, []string{"https://127.0.0.1:1"}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		options Options
		want    string
	}{
		{"no endpoints", Options{}, "no endpoints given"},
		{"no port", Options{Endpoints: []string{"127.0.0.1"}}, `endpoint "127.0.0.1" is no URL`},
		{"empty", Options{Endpoints: []string{""}}, `endpoint "" is no URL`},
		{"another scheme", Options{Endpoints: []string{"unix://etcd:0"}}, `endpoint "unix://etcd:0" is no URL`},
		{"mixed", Options{Endpoints: append(plain, secure...)}, "mix http and https"},
		{"CA for a plain endpoint", Options{Endpoints: plain, CAFile: file},
			`endpoint "http://127.0.0.1:1" is plain: write it https://`},
		{"certificate for a plain endpoint", Options{Endpoints: plain, CertFile: file, KeyFile: file}, "is plain"},
		{"certificate without key", Options{Endpoints: secure, CertFile: file}, "give both files or none"},
		{"key without certificate", Options{Endpoints: secure, KeyFile: file}, "give both files or none"},
		{"missing CA", Options{Endpoints: secure, CAFile: file + "x"}, "no such file"},
		{"bad certificate", Options{Endpoints: secure, CertFile: file, KeyFile: file}, "read TLS files"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(t.Context(), tt.options)
			if err == nil {
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got error %q, want one line with %q", err, tt.want)
			}
		})
	}
}

func TestURLs(t *testing.T) {
	for _, tt := range []struct {
		options Options
		want    string
	}{
		{Options{Endpoints: []string{"127.0.0.1:2379", "http://a:1"}}, "http://127.0.0.1:2379 http://a:1"},
		{Options{Endpoints: []string{"[::1]:2379", "etcd:1"}, CAFile: "ca"}, "https://[::1]:2379 https://etcd:1"},
		{Options{Endpoints: []string{"https://a:1", "a", ""}}, "https://a:1 a "},
	} {
		if got := strings.Join(tt.options.urls(), " "); got != tt.want {
			t.Errorf("%q are %s, want %s", tt.options.Endpoints, got, tt.want)
		}
	}
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.issue("ca", true)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue writes NAME.crt and NAME.key.
func (a *authority) issue(name string, ca bool) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if ca {
		a.cert, a.key = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for ext, block := range map[string]*pem.Block{
		".crt": {Type: "CERTIFICATE", Bytes: der},
		".key": {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err = os.WriteFile(a.file(name+ext), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

func TestTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	ours.issue("server", false)
	ours.issue("client", false)
	others.issue("client", false)
	e := &etcd{t: t}
	e.options.Dir, e.options.NoSync = t.TempDir(), true
	e.options.ClientURLs = []string{"https://127.0.0.1:0"}
	e.options.CertFile, e.options.KeyFile = ours.file("server.crt"), ours.file("server.key")
	e.options.CAFile = ours.file("ca.crt")
	e.start()
	t.Cleanup(e.stop)
	good := Options{
		Endpoints: e.server.Endpoints(), CAFile: ours.file("ca.crt"),
		CertFile: ours.file("client.crt"), KeyFile: ours.file("client.key"),
	}
	created, err := e.open(good).CreateConfig(t.Context(), []byte(fourSubnets))
	if err != nil || !created {
		t.Errorf("created %v, error %v", created, err)
	}
	for _, tt := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no CA", func(o *Options) { o.CAFile = "" }, "certificate signed by unknown authority"},
		{"another CA", func(o *Options) { o.CAFile = others.file("ca.crt") }, "certificate signed by unknown authority"},
		// With TLS 1.3 a client may learn no more of its refusal than a broken connection.
		{"no certificate", func(o *Options) { o.CertFile, o.KeyFile = "", "" }, ""},
		{"another's certificate", func(o *Options) {
			o.CertFile, o.KeyFile = others.file("client.crt"), others.file("client.key")
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log logged
			o := good
			o.Logger = log.logger()
			tt.change(&o)
			s := e.open(o)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				_, err := s.Config(ctx)
				done <- err
			}()
			eventually(t, "the loss is logged", func() bool { return log.count("etcd is out of reach") == 1 })
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), tt.want) ||
				log.count(tt.want) == 0 || log.count("\n") != 1 {
				t.Errorf("error is %v, want %s; log:\n%s", err, tt.want, &log)
			}
		})
	}
}

// newEtcdWithUsers has a user "bpfnet" with password "secret" who may use the
// default prefix.
func newEtcdWithUsers(t *testing.T) *etcd {
	e := newEtcd(t)
	e.enableAuth()
	return e
}

func (e *etcd) enableAuth() {
	t, ctx := e.t, e.t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(e.cli.RoleAdd(ctx, "root"))
	must(e.cli.UserAdd(ctx, "root", "root"))
	must(e.cli.UserGrantRole(ctx, "root", "root"))
	must(e.cli.RoleAdd(ctx, "network"))
	must(e.cli.RoleGrantPermission(ctx, "network", DefaultPrefix+"/",
		clientv3.GetPrefixRangeEnd(DefaultPrefix+"/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(e.cli.UserAdd(ctx, "bpfnet", "secret"))
	must(e.cli.UserGrantRole(ctx, "bpfnet", "network"))
	must(e.cli.AuthEnable(ctx))
}

// TestUserOverTLS has all that flannel's users can ask of etcd at once: servers
// and clients show certificates, and users have passwords and permissions.
func TestUserOverTLS(t *testing.T) {
	a := newAuthority(t)
	for _, name := range []string{"server", "client"} {
		a.issue(name, false)
	}
	e := &etcd{t: t}
	e.options = embedded.Options{
		Dir: t.TempDir(), NoSync: true, ClientURLs: []string{"https://127.0.0.1:0"},
		CertFile: a.file("server.crt"), KeyFile: a.file("server.key"), CAFile: a.file("ca.crt"),
	}
	e.start()
	t.Cleanup(e.stop)
	good := Options{
		Endpoints: e.server.Endpoints(), CAFile: a.file("ca.crt"), CertFile: a.file("client.crt"), KeyFile: a.file("client.key"),
		Username: "bpfnet", Password: "secret",
	}
	tlsConfig, err := good.tlsConfig()
	if err != nil {
		t.Fatal(err)
	}
	if e.cli, err = clientv3.New(clientv3.Config{Endpoints: good.Endpoints, TLS: tlsConfig, Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.cli.Close() })
	e.enableAuth()

	var log logged
	good.Logger = log.logger()
	good.LeaseTTL = time.Hour
	s := e.open(good)
	if err = s.ReplaceConfig(t.Context(), []byte(fourSubnets), 0); err != nil {
		t.Fatal(err)
	}
	h := acquire(t, s, mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	events, _ := keep(t, h, time.Hour-time.Second) // is renewed each second
	expect(t, events, Renewed, "")
	if all := records(t, s); len(all) != 1 {
		t.Errorf("records %v", all)
	}
	if log.count("level=WARN") != 0 || log.count("level=ERROR") != 0 {
		t.Errorf("log:\n%s", &log)
	}
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"wrong password": {func(o *Options) { o.Password = "wrong" }, "authentication failed, invalid user ID or password"},
		"no such user":   {func(o *Options) { o.Username = "nobody" }, "authentication failed, invalid user ID or password"},
		"host:port":      {func(o *Options) { o.Endpoints = []string{strings.TrimPrefix(o.Endpoints[0], "https://")} }, ""},
		"plain":          {func(o *Options) { o.Endpoints = []string{strings.Replace(o.Endpoints[0], "https", "http", 1)} }, "is plain: write it https://"},
	} {
		o := good
		tt.change(&o)
		other, err := Open(t.Context(), o)
		if err == nil {
			err = other.Close()
		}
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: error %v, want one line with %q", name, err, tt.want)
		}
	}
}

func TestUser(t *testing.T) {
	e := newEtcdWithUsers(t)
	good := Options{Username: "bpfnet", Password: "secret"}
	s := e.open(good)
	if created, err := s.CreateConfig(t.Context(), []byte(fourSubnets)); err != nil || !created {
		t.Errorf("created %v, error %v", created, err)
	}
	updates := watch(t, s)
	expectUpdate(t, updates, "full put [] deleted [] bad []")
	h := acquire(t, s, mustParseConfig(t, fourSubnets), wantOf("192.168.32.245"))
	receive(t, "own lease", updates)
	events, stop := keep(t, h, time.Hour)

	// Started again, the server does not know the token any more.
	e.stop()
	e.start()
	stop()
	if err := h.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if u := receive(t, "deletion", updates); len(u.Deleted) != 1 || len(events) != 0 {
		t.Errorf("got update %s and %d events", summary(u), len(events))
	}

	bad := good
	bad.Endpoints, bad.Password = e.options.ClientURLs, "wrong"
	if _, err := Open(t.Context(), bad); !errors.Is(err, rpctypes.ErrAuthFailed) {
		t.Errorf("wrong password: error %v", err)
	}
	if _, err := e.open(Options{}).Config(t.Context()); !errors.Is(err, rpctypes.ErrUserEmpty) {
		t.Errorf("no user: error %v", err)
	}
	elsewhere := good
	elsewhere.Prefix = "/elsewhere"
	s = e.open(elsewhere)
	if _, err := s.Config(t.Context()); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("no permission: error %v", err)
	}
	if err := s.Watch(t.Context(), func(Update) error { return nil }); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("no permission: error %v", err)
	}
	if err := s.WatchConfig(t.Context(), func([]byte) {}); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("no permission: error %v", err)
	}
}

// TestUserBeforeEtcd opens a store that has to authenticate with an etcd that
// is not there yet.
func TestUserBeforeEtcd(t *testing.T) {
	var log logged
	e := newEtcdWithUsers(t)
	e.stop()
	stores, errs := make(chan *Store, 1), make(chan error, 1)
	go func() {
		s, err := Open(t.Context(), Options{
			Endpoints: e.options.ClientURLs, Username: "bpfnet", Password: "secret", Logger: log.logger(),
		})
		stores <- s
		errs <- err
	}()
	eventually(t, "the loss is logged", func() bool { return log.count("etcd is out of reach") == 1 })
	e.start()
	s := receive(t, "store", stores)
	if err := receive(t, "error", errs); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Config(t.Context()); !errors.Is(err, ErrNoConfig) {
		t.Errorf("error %v, want ErrNoConfig", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if log.count("etcd is back") != 1 {
		t.Errorf("the return is not logged:\n%s", &log)
	}
}
