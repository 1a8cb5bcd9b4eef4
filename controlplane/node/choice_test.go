// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestChoice(t *testing.T) {
	c := newChoice(EBPF)
	if err := c.set(t.Context(), EBPF); err != nil {
		t.Errorf("what is already: %v", err)
	}
	if c.done(errors.New("a session's")) {
		t.Error("without a change under way, one went back")
	}
	result, err := c.ask(Netlink)
	if err != nil || c.get() != Netlink {
		t.Fatalf("asked for netlink: %s, %v", c.get(), err)
	}
	if err = c.watch(t.Context(), EBPF); !errors.Is(err, errRestart) {
		t.Errorf("the session ends with %v", err)
	}
	if _, err = c.ask(EBPF); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("a second change meanwhile: %v", err)
	}
	if c.done(nil) || <-result != nil || c.get() != Netlink {
		t.Errorf("made, and now %s", c.get())
	}
	result, err = c.ask(EBPF)
	if err != nil {
		t.Fatal(err)
	}
	if !c.done(errors.New("no such thing")) {
		t.Error("it did not go back")
	}
	if err = <-result; err == nil || err.Error() != "change to ebpf, going on with netlink: no such thing" || c.get() != Netlink {
		t.Errorf("now %s, error %v", c.get(), err)
	}
}

// A watcher that ends leaves the token to the next session.
func TestChoiceOutlivesSessions(t *testing.T) {
	c := newChoice(EBPF)
	ended, end := context.WithCancel(t.Context())
	end()
	if err := c.watch(ended, EBPF); err != nil {
		t.Error(err)
	}
	if err := c.set(ended, Netlink); !errors.Is(err, context.Canceled) {
		t.Errorf("the asker went away: %v", err)
	}
	if err := c.watch(t.Context(), EBPF); !errors.Is(err, errRestart) {
		t.Errorf("the next session ends with %v", err)
	}
}

// Changes that fail before a session looks at them hold up nobody.
func TestChoiceFailsTwice(t *testing.T) {
	c := newChoice(EBPF)
	for range 3 {
		result, err := c.ask(Netlink)
		if err != nil || !c.pending() {
			t.Fatalf("pending %t, error %v", c.pending(), err)
		}
		if !c.done(errors.New("no uplink")) || <-result == nil || c.get() != EBPF || c.pending() {
			t.Errorf("did not go back: now %s", c.get())
		}
	}
}

func TestServeDataplane(t *testing.T) {
	n := &node{choice: newChoice(EBPF)}
	for path, want := range map[string]int{
		"/dataplane/ebpf": http.StatusNoContent,
		"/dataplane/dpdk": http.StatusBadRequest,
	} {
		mux, w := http.NewServeMux(), httptest.NewRecorder()
		mux.HandleFunc("PUT /dataplane/{name}", n.serveDataplane)
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodPut, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
		}
	}
}
