// SPDX-License-Identifier: Apache-2.0

package main

import (
	"regexp"
	"testing"
)

func TestVersion(t *testing.T) {
	defer func(v string) { version = v }(version)
	tests := map[string]struct{ linked, want string }{
		"make build": {"v1.2.3-4-gabcdef0", `^bpfnet v1\.2\.3-4-gabcdef0 go1\.\d+\S* linux/\w+\n$`},
		"go install": {"", `^bpfnet \S+ go1\.\d+\S* linux/\w+\n$`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			version = test.linked
			out, err := execute(t, "version")
			if err != nil || !regexp.MustCompile(test.want).MatchString(out) {
				t.Errorf("%q, %v does not match %s", out, err, test.want)
			}
		})
	}
}
