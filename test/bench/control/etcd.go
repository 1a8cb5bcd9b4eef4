// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
	"github.com/bpfnet/bpfnet/test/lab"
)

const (
	etcdURL      = "http://127.0.0.1:2379"
	startTimeout = 20 * time.Second
)

// ServeEtcd is a process that is an etcd, not safe from a crash of the machine.
// It says so on out once it serves, and ends when in does.
func ServeEtcd(ctx context.Context, dir string, in io.Reader, out io.Writer) error {
	s, err := embedded.Start(ctx, embedded.Options{Dir: dir, ClientURLs: []string{etcdURL}, NoSync: true})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "ready")
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	return errors.Join(err, s.Close())
}

// etcd is such a process, and a client of it.
type etcd struct {
	*clientv3.Client
	cmd *exec.Cmd
	in  io.Closer
}

// startEtcd starts one on a lab's host.
func startEtcd(ctx context.Context, l *lab.Lab, binary string) (*etcd, error) {
	dir, err := l.TempDir() // hundreds of megabytes are much for /run
	if err != nil {
		return nil, err
	}
	e := &etcd{cmd: exec.Command(binary, "bench", "etcd", dir)}
	if err := e.start(ctx, l); err != nil {
		return nil, errors.Join(fmt.Errorf("start etcd: %w", err), e.close())
	}
	return e, nil
}

func (e *etcd) start(ctx context.Context, l *lab.Lab) error {
	n := l.Hosts[0].NS
	in, err := e.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	e.cmd.Stderr = os.Stderr
	if err = l.Start(n, e.cmd); err != nil {
		return err
	}
	e.in = in
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	if _, err = out.Read(make([]byte, 16)); err != nil {
		return fmt.Errorf("it ended before it served: %w", err)
	}
	e.Client, err = clientv3.New(clientv3.Config{
		Endpoints:   []string{etcdURL},
		DialTimeout: startTimeout,
		Logger:      zap.NewNop(), // what it would say is in the errors
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return n.Dial(ctx, "tcp", address)
		})},
	})
	return err
}

func (e *etcd) close() error {
	var err error
	if e.Client != nil {
		err = e.Client.Close()
	}
	if e.in != nil {
		err = errors.Join(err, e.in.Close(), e.cmd.Wait())
	}
	return err
}
