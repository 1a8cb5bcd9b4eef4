// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
)

// FetchStatus asks the daemon of a run directory.
func FetchStatus(ctx context.Context, runDir string) (Status, error) {
	var s Status
	resp, err := request(ctx, runDir, http.MethodGet, "/status")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("read the daemon's status: %w", err)
	}
	return s, nil
}

// FetchBrief asks the daemon of a run directory whether it serves the network,
// and how many peers.
func FetchBrief(ctx context.Context, runDir string) (Brief, error) {
	resp, err := request(ctx, runDir, http.MethodHead, "/status")
	if err != nil {
		return Brief{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // there is none
	b := Brief{Ready: resp.StatusCode == http.StatusOK}
	for header, n := range map[string]*int{peersHeader: &b.Peers, kernelViewHeader: &b.KernelView} {
		if *n, err = strconv.Atoi(resp.Header.Get(header)); err != nil {
			return Brief{}, fmt.Errorf("read the daemon's status: %w", err)
		}
	}
	return b, nil
}

// SetDataplane changes the dataplane of a run directory's daemon, and returns
// when packets go by that one alone; on an error it is what it was.
func SetDataplane(ctx context.Context, runDir string, d Dataplane) error {
	resp, err := request(ctx, runDir, http.MethodPut, "/dataplane/"+string(d))
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusNoContent {
		err = errors.New(string(bytes.TrimSpace(text)))
	}
	return err
}

// request asks the daemon by its control socket.
func request(ctx context.Context, runDir, method, path string) (*http.Response, error) {
	socket := filepath.Join(runDir, SocketName)
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://bpfnet"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon (is it running, with --run-dir %s?): %w", runDir, err)
	}
	return resp, nil
}
