// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "bpfnet") // made if missing
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, again := Lock(dir); !errors.Is(again, ErrAlreadyRunning) {
		t.Errorf("second lock: error %v, want %v", again, ErrAlreadyRunning)
	}
	if info, statErr := os.Stat(dir); statErr != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("run directory %v, %v; want mode 0700", info, statErr)
	}
	other, err := Lock(t.TempDir())
	if err != nil {
		t.Errorf("another run directory: %v", err)
	} else {
		other()
	}
	unlock()
	if unlock, err = Lock(dir); err != nil {
		t.Fatalf("after the first is given back: %v", err)
	}
	unlock()
}

func TestLockOfNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(file); err == nil || errors.Is(err, ErrAlreadyRunning) {
		t.Errorf("error %v, want one of the directory", err)
	}
}

func TestRunRefusesASecondDaemon(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	err = Run(t.Context(), Options{RunDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrAlreadyRunning) {
		t.Errorf("error %v, want %v", err, ErrAlreadyRunning)
	}
}

// TestRunEndsWithItsContext: told to stop while it can do nothing, for want of an uplink.
func TestRunEndsWithItsContext(t *testing.T) {
	log, lines := logged()
	o := Options{RunDir: t.TempDir(), Logger: log}
	o.Underlay.Iface = []string{"no-such-uplink"}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()

	waitFor(t, func() bool {
		s, err := FetchStatus(ctx, o.RunDir)
		return err == nil && !s.Ready && len(s.Problems) == 1 && s.Problems[0].Source == "session"
	})
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("error %v of a daemon that was told to stop", err)
		}
	case <-time.After(patience):
		t.Fatal("goes on though its context has ended")
	}
	if got := lines(); len(got) == 0 || len(got) > 2 {
		t.Errorf("log %q, want the failure once, however often it was tried, and perhaps the stop", got)
	}
}

// patience is how long a test waits for what has to happen.
const patience = time.Minute

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", patience)
		}
	}
}

func TestVTEPMAC(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	owners := map[topology.MAC][2]any{}
	for range 10_000 {
		node := netip.AddrFrom4([4]byte{10, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
		vni := r.Uint32N(1 << 24)
		mac := vtepMAC(node, vni)
		if mac[0]&1 != 0 || mac[0]&2 == 0 {
			t.Fatalf("%s of %s and VNI %d is not a locally administered address of one station", mac, node, vni)
		}
		if again := vtepMAC(node, vni); again != mac {
			t.Fatalf("%s and VNI %d have %s, then %s", node, vni, mac, again)
		}
		owner := [2]any{node, vni}
		if other, taken := owners[mac]; taken && other != owner {
			t.Fatalf("%s is of %v and of %v", mac, other, owner)
		}
		owners[mac] = owner
	}
}

func TestSleep(t *testing.T) {
	if !sleep(t.Context(), time.Nanosecond) {
		t.Error("cut short though its context lives")
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if sleep(ctx, time.Hour) {
		t.Error("not cut short by the end of its context")
	}
}
