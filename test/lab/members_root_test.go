// SPDX-License-Identifier: Apache-2.0

//go:build root

package lab

import (
	"errors"
	"os"
	"testing"
)

// TestDownWaitsForForks: a process between fork and exec has all files that its parent had. It may be about to
// become one of the lab's, or of another's: it is waited for, not killed.
func TestDownWaitsForForks(t *testing.T) {
	o := Defaults()
	o.Name, o.Hosts = "forks", 1
	if _, err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	f, err := join(o.Name) // as such a process has it
	if err != nil {
		t.Fatal(err)
	}
	down := make(chan error)
	go func() { down <- Down(o.Name) }()
	err = Until(t.Context(), "it is being taken down", func() (bool, error) {
		_, statErr := os.Stat(statePath(o.Name))
		return errors.Is(statErr, os.ErrNotExist), nil
	})
	if err != nil {
		t.Error(err)
	}
	select {
	case err := <-down:
		t.Fatalf("taken down with one of its processes alive, error %v", err)
	default:
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if f, err := join(o.Name); !errors.Is(err, ErrNotUp) {
		t.Errorf("joined %v, error %v, want %v", f, err, ErrNotUp)
	}
}
