# Skep. "make help" lists the targets; "make test" is what CI runs.

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := all
.NOTPARALLEL:

GO       ?= go
FUZZTIME ?= 30s
FUZZES   ?= 2000
FOR      ?= 1h

# What a clone builds once and every later clone may take: the pinned runtime
# and build tools, each under the digest of the module files that pin it.
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/skep
pinned   = $(CACHE)/$(1)-$(shell cat internal/tools/$(1)/go.mod internal/tools/$(1)/go.sum | sha256sum | cut -c1-16)
RUNTIME := $(call pinned,runtime)
LINT    := $(call pinned,lint)/golangci-lint
BUF     := $(call pinned,buf)/buf
CFSSL   := $(call pinned,cfssl)
# The program that packs is ours, so its source counts too.
NFPM    := $(CACHE)/nfpm-$(shell cat internal/tools/nfpm/go.mod internal/tools/nfpm/go.sum internal/tools/nfpm/main.go | sha256sum | cut -c1-16)/nfpm

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/skep-project/skep/internal/version.Version=$(VERSION)
# The Go Cryptographic Module that has a FIPS 140-3 certificate. "ctl daemon --fips"
# puts it into that mode; without it, it is the same code in no such mode.
FIPS    := certified
STATIC  := CGO_ENABLED=0 GOFIPS140=$(FIPS) $(GO) build -trimpath -ldflags '$(LDFLAGS)'

RUNTIME_BINS := bin/containerd bin/containerd-shim-runc-v2 bin/ctr bin/runc
RUNTIME_TAGS := no_btrfs no_devmapper no_zfs no_cri no_aufs no_tracing

# Tests that need neither root nor another room's time.
UNITS = $$($(GO) list ./... | grep -v '/skep/integration')

# phase runs a recipe line between two words of time. The shell's -e does not see what
# fails before the last && of a line.
phase = @echo "== $(1)"; began=$$SECONDS; { $(2); } || exit; echo "== $(1): $$((SECONDS - began)) s"

.PHONY: all build static deps packages runtime test check lint proto proto-lint proto-current \
	mod-current unit race sim bubble script adversary lab lab-test man demo calm soak soak-short recovery bench bench-short microbench deb deb-lint fuzz fuzz-short cover clean help

all: build ## build bin/ctl

build static: ## build bin/ctl, one static binary
	$(STATIC) -o bin/ctl ./cmd/ctl

# --- what the system lacks -------------------------------------------------

deps: packages runtime $(LINT) $(BUF) $(CFSSL)/.done ## install system packages, containerd, runc, the build tools and cfssl

packages: ## the apt packages the lab and runc need; nothing is done where all are there
	@internal/tools/packages.sh

runtime: $(RUNTIME_BINS) ## build containerd, its shim, ctr and runc into bin/

$(RUNTIME_BINS): bin/%: $(RUNTIME)/.done
	@mkdir -p bin
	@install -m 0755 $(RUNTIME)/$* $@

$(RUNTIME)/.done:
	@echo "building containerd and runc (once; about three minutes)"
	@mkdir -p $(RUNTIME)
	CGO_ENABLED=0 $(GO) build -C internal/tools/runtime -trimpath -ldflags '-s -w' -tags '$(RUNTIME_TAGS)' -o $(RUNTIME)/ \
		github.com/containerd/containerd/v2/cmd/containerd \
		github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 \
		github.com/containerd/containerd/v2/cmd/ctr
	CGO_ENABLED=1 $(GO) build -C internal/tools/runtime -trimpath -ldflags '-s -w' -tags seccomp -o $(RUNTIME)/ \
		github.com/opencontainers/runc
	@touch $@

$(LINT):
	@echo "building golangci-lint (once; about two minutes)"
	@mkdir -p $(@D)
	CGO_ENABLED=0 $(GO) build -C internal/tools/lint -trimpath -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(BUF):
	@echo "building buf (once; two to five minutes)"
	@mkdir -p $(@D)
	CGO_ENABLED=0 $(GO) build -C internal/tools/buf -trimpath -o $@ github.com/bufbuild/buf/cmd/buf

# An external CA for the stories to ask.
$(CFSSL)/.done:
	@echo "building cfssl (once; half a minute)"
	@mkdir -p $(@D)
	CGO_ENABLED=0 $(GO) build -C internal/tools/cfssl -trimpath -o $(@D)/ tool
	@touch $@

$(NFPM):
	@echo "building nfpm (once; half a minute)"
	@mkdir -p $(@D)
	CGO_ENABLED=0 $(GO) build -C internal/tools/nfpm -trimpath -o $@ .

# --- what must be true -----------------------------------------------------

# A suite runs from the day its room is built.
SUITES = $(foreach suite,sim bubble script adversary,$(if $(wildcard integration/$(suite)/*_test.go),$(suite)))

test check: lint proto-lint proto-current mod-current unit fuzz-short $(SUITES) lab-test soak-short bench-short ## everything CI runs (as root)
	@echo "== every phase has passed"

lint: $(LINT)
	$(call phase,lint,$(LINT) run --build-tags lab ./...)

proto-lint: $(BUF)
	$(call phase,buf lint,$(BUF) lint)

proto: $(BUF) ## write the generated code again
	$(BUF) generate

proto-current: $(BUF)
	$(call phase,generated code is current,internal/tools/proto-current.sh $(BUF))

mod-current:
	$(call phase,modules are tidy and verified,$(GO) mod tidy -diff && $(GO) mod verify)

# As root, the tests of the container runtime must not be skipped.
unit race: runtime ## unit tests under the race detector
	$(call phase,unit,SKEP_NEED_CONTAINERD=$(if $(filter 0,$(shell id -u)),1) $(GO) test -race $(UNITS))

sim: ## the seeded simulator
	$(call phase,sim,$(GO) test ./integration/sim/...)

bubble: ## whole nodes in a synctest bubble
	$(call phase,bubble,$(GO) test ./integration/bubble/...)

script: build $(CFSSL)/.done ## CLI stories
	$(call phase,script,SKEP_CFSSL=$(CFSSL) $(GO) test ./integration/script/...)

adversary: ## attacks on a swarm of real processes
	$(call phase,adversary,$(GO) test -count=1 ./integration/adversary/...)

lab-test: build runtime $(NFPM) ## hosts on this machine: the lab's own tests and every story on it (as root)
	$(call phase,lab,$(GO) test -tags lab -count=1 -timeout 20m ./internal/lab/... && \
		SKEP_BIN=$(CURDIR)/bin/ctl SKEP_NFPM=$(NFPM) $(GO) test -p 1 -tags lab -count=1 -timeout 20m ./integration/walkthrough/... ./integration/services/... ./integration/cluster/... ./integration/many/... ./integration/lab/... ./integration/deb/...)

# --- what people look at ---------------------------------------------------

# SWARM=3 makes a swarm of them with three managers, HOSTS=3 makes fewer.
lab: build runtime ## leave five hosts up to play with (as root); SWARM=3 for three managers; bin/lab down ends it
	@$(GO) build -o bin/lab ./integration/lab
	@bin/lab up -hosts $(or $(HOSTS),5) -swarm $(or $(SWARM),0)

man: build ## the manual pages, written from the commands into bin/man/
	rm -rf bin/man && bin/ctl man bin/man

deb: build runtime $(NFPM) ## the Debian package, into bin/: the same bytes for the same commit
	@packaging/deb.sh bin $(NFPM) bin

deb-lint: deb ## what lintian (a Debian package) says of the newest one; nothing, if all is well
	lintian --fail-on warning "$$(ls -t bin/skep_*.deb | head -n 1)"

demo: build runtime ## replay the walkthrough on lab hosts for a person to watch (as root)
	@$(GO) build -o bin/demo ./integration/demo
	@bin/demo -bin $(CURDIR)/bin/ctl

calm: build runtime ## three managers for an hour on a busy disk: no election may be held (as root; FOR=1h)
	@$(GO) build -o bin/calm ./integration/calm
	@bin/calm -bin $(CURDIR)/bin/ctl -for $(FOR)

# What a soak's faults are drawn from: 0 draws and prints one.
SEED     ?= 0
DURATION ?= 1h

soak: build runtime ## torment a swarm on lab hosts for DURATION, by SEED, and check its history (as root)
	@$(GO) test -count=1 ./integration/soak
	@$(GO) build -o bin/soak ./integration/soak
	@bin/soak -bin $(CURDIR)/bin/ctl -for $(DURATION) -seed $(SEED)

soak-short: ## the same for a minute and a half
	$(call phase,soak,$(MAKE) --no-print-directory soak DURATION=90s)

TRIALS ?= 20

recovery: build runtime ## measure how long losses are felt on lab hosts, TRIALS of each (as root)
	@$(GO) build -o bin/recovery ./integration/recovery
	@bin/recovery -bin $(CURDIR)/bin/ctl -trials $(TRIALS)

FORMAT ?= table

bench: build runtime ## measure the control plane (as root; FORMAT=json, SCENARIO=deploy,roll; more flags in BENCH)
	@$(GO) build -trimpath -o bin/bench ./integration/bench
	@bin/bench -format $(FORMAT) -scenario "$(SCENARIO)" $(BENCH)

bench-short: ## the same once with few of everything, in a minute: that it works, and not how fast
	@$(GO) test ./integration/bench
	@$(GO) build -trimpath -o bin/bench ./integration/bench
	$(call phase,bench,bin/bench -short)

microbench: ## the benchmarks of each package
	$(GO) test -run '^$$' -bench . -benchmem $(UNITS)

fuzz: ## every fuzz target, for FUZZTIME each
	@internal/tools/fuzz.sh $(FUZZTIME)

fuzz-short: ## every fuzz target, FUZZES times each
	$(call phase,fuzz,internal/tools/fuzz.sh $(FUZZES)x)

cover: ## coverage of the unit tests, as a table
	@mkdir -p bin
	$(GO) test -coverprofile bin/cover.out $(UNITS) && $(GO) tool cover -func bin/cover.out | tail -n 1

clean: ## remove bin/ (the cache of tools stays)
	rm -rf bin

help: ## this list
	@grep -hE '^[a-z][a-z -]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | while IFS=$$'\t' read -r t d; do printf '  %-16s %s\n' "$$t" "$$d"; done
