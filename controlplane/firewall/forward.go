// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

const (
	filterTable   = "filter"
	parentChain   = "FORWARD"
	forwardChain  = "BPFNET-FORWARD"
	jumpToForward = "-A " + parentChain + " -j " + forwardChain
)

// dropsAll matches a rule that drops whatever reaches it, as `iptables -S` lists it.
var dropsAll = regexp.MustCompile(`^-A ` + parentChain + `( -m comment --comment ("[^"]*"|\S+))? -j (DROP|REJECT( --reject-with \S+)?)$`)

// ensureForward makes the FORWARD chains accept the network's packets, or not any
// more where r does not forward.
func (f family) ensureForward(r Rules) (changed bool, err error) {
	commands, err := f.commands(r.Forward)
	if err != nil {
		return false, err
	}
	var accept []string
	if r.Forward {
		accept = acceptRules(r.Network.String())
	}
	var errs []error
	for _, c := range commands {
		filter, err := f.open(c)
		if err == nil {
			err = filter.ensure(accept)
		}
		if err != nil {
			// What a command says on standard error ends the line.
			errs = append(errs, fmt.Errorf("set %s by %s: %s", forwardChain, c, strings.TrimSpace(err.Error())))
		}
		changed = changed || filter.changed
	}
	return changed, errors.Join(errs...)
}

// acceptRules are the rules of our chain as `iptables -S` lists them.
func acceptRules(network string) []string {
	return []string{
		"-A " + forwardChain + " -s " + network + " -j ACCEPT",
		"-A " + forwardChain + " -d " + network + " -j ACCEPT",
	}
}

// filter is the filter table as one iptables command sees it. go-iptables makes
// each change by itself; their order is such that no packet is dropped in
// between, and what a failure leaves undone the next call does.
type filter struct {
	*iptables.IPTables
	changed bool
}

func (f family) open(command string) (filter, error) {
	ipt, err := iptables.New(iptables.IPFamily(f.protocol), iptables.Path(command), iptables.Timeout(lockTimeout))
	return filter{IPTables: ipt}, err
}

// ensure makes our chain hold these rules and FORWARD jump there, or takes both away.
func (t *filter) ensure(accept []string) error {
	exists, err := t.ChainExists(filterTable, forwardChain)
	switch {
	case err != nil:
		return err
	case len(accept) == 0 && !exists:
		return nil
	case len(accept) == 0:
		return t.remove()
	case !exists:
		if err := t.wrote(t.NewChain(filterTable, forwardChain)); err != nil {
			return err
		}
	}
	return errors.Join(t.ensureRules(accept), t.ensureJump())
}

// ensureRules adds what is missing before it deletes what is too much.
func (t *filter) ensureRules(want []string) error {
	have, err := t.rules(forwardChain)
	if err != nil {
		return err
	}
	for _, w := range want {
		if slices.Contains(have, w) {
			continue
		}
		if err := t.wrote(t.Append(filterTable, forwardChain, spec(w)...)); err != nil {
			return err
		}
	}
	return t.deleteAll(forwardChain, have, func(i int) bool {
		return !slices.Contains(want, have[i]) || slices.Index(have, have[i]) < i
	})
}

// ensureJump makes FORWARD jump to our chain once, in front of what drops everything.
func (t *filter) ensureJump() error {
	have, err := t.rules(parentChain)
	if err != nil {
		return err
	}
	end := len(have)
	if i := slices.IndexFunc(have, dropsAll.MatchString); i >= 0 {
		end = i
	}
	keep := slices.Index(have[:end], jumpToForward)
	if keep < 0 {
		if err := t.wrote(t.Insert(filterTable, parentChain, end+1, spec(jumpToForward)...)); err != nil {
			return err
		}
		have = slices.Insert(have, end, jumpToForward)
		keep = end
	}
	return t.deleteAll(parentChain, have, func(i int) bool { return have[i] == jumpToForward && i != keep })
}

// remove takes the jumps and the chain away.
func (t *filter) remove() error {
	have, err := t.rules(parentChain)
	if err != nil {
		return err
	}
	if err := t.deleteAll(parentChain, have, func(i int) bool { return have[i] == jumpToForward }); err != nil {
		return err
	}
	return t.wrote(t.ClearAndDeleteChain(filterTable, forwardChain))
}

// deleteAll deletes the rules of a chain that match, from the end, as each deletion moves
// up those behind it.
func (t *filter) deleteAll(chain string, have []string, match func(i int) bool) error {
	for i := len(have) - 1; i >= 0; i-- {
		if !match(i) {
			continue
		}
		if err := t.wrote(t.DeleteById(filterTable, chain, i+1)); err != nil {
			return err
		}
	}
	return nil
}

// rules lists the rules of a chain, without its policy and creation.
func (t *filter) rules(chain string) ([]string, error) {
	lines, err := t.List(filterTable, chain)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "-A ") }), nil
}

func (t *filter) wrote(err error) error {
	t.changed = t.changed || err == nil
	return err
}

// spec takes a listed rule apart: what follows the chain's name.
func spec(listed string) []string {
	return strings.Fields(listed)[2:]
}
