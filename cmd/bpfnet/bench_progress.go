// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/bench"
)

// progress shows how far a benchmark is: on a terminal a bar in the last line,
// elsewhere a line now and then.
type progress struct {
	w       io.Writer
	columns int // of the terminal; 0: it is none
	last    time.Time
}

const (
	barWidth      = 20
	plainInterval = 10 * time.Second
)

// columns is a terminal's width, 0 of anything else.
func columns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

func (p *progress) show(s bench.Step) {
	switch {
	case p.columns > 0:
		line := []rune(stepLine(s))
		fmt.Fprintf(p.w, "\r\x1b[K%s", string(line[:min(len(line), p.columns-1)]))
	case s.Total == 0 || time.Since(p.last) >= plainInterval:
		p.last = time.Now()
		fmt.Fprintln(p.w, stepLine(s))
	}
}

// end leaves the terminal's last line to others.
func (p *progress) end() {
	if p.columns > 0 {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func stepLine(s bench.Step) string {
	if s.Total == 0 {
		return s.Text
	}
	full := barWidth * s.Done / s.Total
	return fmt.Sprintf("[%s%s] %3d %%, %s left, %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
		100*s.Done/s.Total, s.Left.Round(time.Second), s.Text)
}
