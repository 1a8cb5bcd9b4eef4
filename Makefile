# The build of bpfnet: `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PKG ?= ./...
FUZZTIME ?= 10s

GOLANGCI_LINT := go tool -modfile=.ci/tools/go.mod golangci-lint
CLANG_FORMAT := clang-format-19
C_SOURCES = $(wildcard bpf/*.c bpf/include/*.h)
GENERATED := 'bpf/*_bpfe[bl].go' 'bpf/*_bpfe[bl].o'
PEERS := $(addprefix bin/peers/,flanneld bridge host-local flannel)

.PHONY: help
help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build bin/bpfnet, one static binary (needs no clang)
	@echo "building bin/bpfnet $(VERSION)"
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/bpfnet ./cmd/bpfnet

.PHONY: demo
demo: nettools build ## two hosts, containers on each, VXLAN and IPIP: watch them talk (root or sudo)
	$(if $(filter 0,$(shell id -u)),,sudo -E) bin/bpfnet demo

# One package at a time: the tests that watch live traffic need the machine's cores for themselves. Those of a package
# that may run beside each other wait most of the time: three at once, or one for each CPU where there are more.
PARALLEL ?= $(shell cpus=$$(nproc); echo $$((cpus > 3 ? cpus : 3)))
.PHONY: test
test: nettools peers clang ## run all tests, with the race detector, root tests included (root or sudo)
	@.ci/sandbox true
	@echo "building the tests (takes minutes the first time)"
	go build -race -tags root ./...
	go test -race -tags root -p 1 -parallel $(PARALLEL) -count 1 -timeout 15m -exec '$(CURDIR)/.ci/sandbox' $(PKG)

.PHONY: peers
peers: $(PEERS) ## build flanneld and the CNI plugins that test/interop runs beside bpfnet

# flanneld's udp backend is C, hence cgo.
bin/peers/flanneld bin/peers/bridge bin/peers/host-local: test/interop/peers/go.mod
bin/peers/flannel: test/interop/peers/cni/go.mod
bin/peers/flanneld: PACKAGE = github.com/flannel-io/flannel
bin/peers/bridge: PACKAGE = github.com/containernetworking/plugins/plugins/main/bridge
bin/peers/host-local: PACKAGE = github.com/containernetworking/plugins/plugins/ipam/host-local
bin/peers/flannel: PACKAGE = github.com/containernetworking/plugins/plugins/meta/flannel
$(PEERS):
	@echo "building $@ (the first time may take minutes)"
	@CGO_ENABLED=1 go build -C $(<D) -o $(CURDIR)/$@ $(PACKAGE)

# What depends on the kernel, without the race detector: emulated processors are slow. The tag vm also
# multiplies the tests' deadlines. The short run is what continuous integration has time for.
VM_KERNELS ?= $(shell cut -d ' ' -f 1 test/vm/kernels)
VM_PKG ?= ./loader ./test/packet ./maps ./controlplane/dataplane/... ./controlplane/containers ./controlplane/nat
VM_E2E ?= ^TestKernel|^TestOverlay/(ebpf|netlink-ipip)|^TestMixedDataplanes/ipip|^TestSwitchDataplane/ebpf-ipip|^TestDualStack.*/ipip|^TestMatrix/ebpf\+netlink/ipip|^TestXDP$$/native/ebpf/vxlan_ipv6
VM_TEST = BPFNET_BINARY=$(CURDIR)/bin/bpfnet go test -tags root,vm -p 1 -parallel 1 -count 1 -timeout 30m \
	-exec '$(CURDIR)/test/vm/run $* $(CURDIR)/.ci/sandbox'
VERIFIED = -v -run '^TestVerifiedInstructions$$' ./loader >bin/verified-$* || { cat bin/verified-$*; exit 1; }
VM_LOADS = echo "== kernel $*"; ($(VM_TEST) $(VERIFIED))

.PHONY: test-vm
test-vm: verified-here $(addprefix test-vm-,$(VM_KERNELS)) ## run the root tests of the datapath on Debian's kernels 6.1 and 6.12, emulated
	@test/vm/table $(addprefix bin/verified-,here $(VM_KERNELS))

.PHONY: test-vm-short
test-vm-short: verified-here $(addprefix test-vm-short-,$(VM_KERNELS)) ## likewise, but: the programs load, packets, an ipip peer of the kernel's
	@test/vm/table $(addprefix bin/verified-,here $(VM_KERNELS))

verified-%: build
	@go test -tags root -count 1 -exec '$(CURDIR)/.ci/sandbox' $(VERIFIED)

test-vm-short-%: nettools vmtools build
	@failed=; \
	$(VM_LOADS) || failed=1; \
	$(VM_TEST) -run ^TestFrom ./test/packet || failed=1; \
	$(VM_TEST) -run '^TestKernelIPIPPeer$$/ebpf' ./test/e2e || failed=1; \
	[[ ! $$failed ]] || { echo "tests failed on kernel $*"; exit 1; }

test-vm-%: nettools vmtools build
	@failed=; \
	$(VM_LOADS) || failed=1; \
	$(VM_TEST) $(VM_PKG) || failed=1; \
	$(VM_TEST) -run '$(VM_E2E)' ./test/e2e || failed=1; \
	[[ ! $$failed ]] || { echo "tests failed on kernel $*"; exit 1; }

.PHONY: fuzz
fuzz: nettools ## run each fuzz target for FUZZTIME (default 10s; root or sudo)
	@.ci/fuzz $(FUZZTIME)

# A seed of one's own: BPFNET_SEED=n make fuzz-long. What fails is printed with the command that repeats it.
FUZZ_PACKETS ?= 10000000
FUZZ_WORKERS ?= $(shell nproc)

.PHONY: fuzz-long
fuzz-long: nettools ## compare FUZZ_PACKETS packets (default 10 million) of each program with the model, on all processors
	BPFNET_PACKETS=$(FUZZ_PACKETS) BPFNET_WORKERS=$(FUZZ_WORKERS) \
		go test -tags root -count 1 -timeout 0 -v -run '^TestFuzz$$' -exec '$(CURDIR)/.ci/sandbox' ./test/packet

.PHONY: generate
generate: clang ## compile the C programs and write their Go bindings, with clang 19
	go generate ./bpf

.PHONY: drift
drift: generate ## fail if the generated files or go.mod are not what is committed
	@changed=$$(git status --porcelain -- $(GENERATED) | cut -c 4-); [[ ! $$changed ]] || { \
		echo "drift: $$(clang-19 --version | head -1) writes other files than are committed; make generate and commit:" $$changed; exit 1; }
	@go mod tidy -diff >/dev/null || { echo "drift: go.mod or go.sum is not tidy; go mod tidy and commit"; exit 1; }

.PHONY: lint
lint: lint-c lint-go ## check Go by golangci-lint, C by clang-format

.PHONY: lint-c
lint-c: clang
	@$(CLANG_FORMAT) --dry-run --Werror $(C_SOURCES) || { echo "lint: C is not formatted (make fmt)"; exit 1; }

.PHONY: lint-go
lint-go:
	@echo "golangci-lint (the first run builds it: minutes)"
	@$(GOLANGCI_LINT) run ./...
	@go vet -tags root,vm ./...

.PHONY: fmt
fmt: clang ## format Go and C
	@$(CLANG_FORMAT) -i $(C_SOURCES)
	@$(GOLANGCI_LINT) fmt ./...

.PHONY: clean
clean: ## remove what build made
	rm -rf bin

.PHONY: nettools
nettools:
	@.ci/need ip=iproute2 tcpdump=tcpdump ping=iputils-ping iperf3=iperf3 iptables=iptables nft=nftables

.PHONY: vmtools
vmtools:
	@.ci/need qemu-system-x86_64=qemu-system-x86 depmod=kmod cpio=cpio curl=curl xz=xz-utils

.PHONY: clang
clang:
	@.ci/need clang-19=clang-19 llvm-strip-19=llvm-19 $(CLANG_FORMAT)=clang-format-19
