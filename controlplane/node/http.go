// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// httpServer answers some kinds of request.
type httpServer struct {
	server *http.Server
	done   chan struct{}
}

// serveHTTP takes over l. The handlers' keys are patterns of http.ServeMux's.
func (n *node) serveHTTP(l net.Listener, handlers map[string]http.HandlerFunc) *httpServer {
	mux := http.NewServeMux()
	for pattern, handle := range handlers {
		mux.HandleFunc(pattern, handle)
	}
	s := &httpServer{
		server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second},
		done:   make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.log.Error("HTTP server ended", "address", l.Addr(), "error", err)
		}
	}()
	return s
}

// close does nothing where there is no server.
func (s *httpServer) close() {
	if s == nil {
		return
	}
	_ = s.server.Close() // the listener's error tells nothing new
	<-s.done
}

// listenHealthz serves GET /healthz, unless its port is 0: nil then. It answers
// 200 for as long as the process lives, as flanneld's (main.go, mustRunHealthz):
// whoever restarts what is not healthy would mend nothing while etcd is away.
func (n *node) listenHealthz() (*httpServer, error) {
	if n.Healthz.Port() == 0 {
		return nil, nil
	}
	l, err := net.Listen("tcp", n.Healthz.String())
	if err != nil {
		return nil, fmt.Errorf("listen for health checks (--healthz-ip, --healthz-port): %w", err)
	}
	return n.serveHTTP(l, map[string]http.HandlerFunc{"GET /healthz": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "bpfnet is running\n") // the reader went away
	}}), nil
}
