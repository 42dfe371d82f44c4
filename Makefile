# make help lists what there is. make ci is exactly what CI runs.
MODULES     := schemas events projections services loadtest
PACKAGES    := $(addprefix ./,$(addsuffix /...,$(MODULES)))
RACE        := $(filter-out ./loadtest/...,$(PACKAGES)) ./loadtest/fleet ./loadtest/ledger
LONGEST     := ./services/node ./projections/columnar ./loadtest/fault ./events/jetlog
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

DATA     ?= data
SPEED    ?= 60
DEMO     ?= 1
FUZZTIME ?= 10s
FUZZ     ?= $(MODULES)
COUNT    ?= 5

# Tests wait for servers more than they compute, so four packages are tested at a time, those that take longest first.
# make lint vets them.
GOTEST   := go test -vet=off -p 4 -timeout 20m

.DEFAULT_GOAL := help
.PHONY: help build run test race fuzz bench telegraf lint modules vuln tidy ci clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/tacho and bin/fleet
	go build -o bin/tacho ./services/cmd/tacho
	go build -o bin/fleet ./loadtest/cmd/fleet

run: build ## start everything and play the demo fleet (SPEED=60, DEMO=0 without it, DATA=data)
	@exec bin/fleet run --tacho bin/tacho --data $(DATA) --speed $(SPEED) --demo=$(DEMO)

test: ## build and pass every test
	go build $(PACKAGES)
	$(GOTEST) $(LONGEST) $(PACKAGES)

# Each process that ends under the race detector sleeps a second first; engines are processes. Everything is built once more
# for it, without inlining and debug information in half of the time; its tests are as fast.
race: ## the short tests under the race detector (those left out, with -short, run in make test)
	GORACE=atexit_sleep_ms=0 $(GOTEST) -race -gcflags='all=-l -dwarf=false' -short $(filter-out ./loadtest/%,$(LONGEST)) $(RACE)

fuzz: ## every fuzz target in test files whose path begins with FUZZ (all) for FUZZTIME (10s) each
	@set -e; git grep -l '^func Fuzz' -- $(foreach d,$(FUZZ),'$(d)*_test.go') | while read -r f; do \
	  for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$f"); do \
	    go test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x "./$$(dirname "$$f")"; done; done

bench: build ## ratios against what others would use in its place, in one run (COUNT=5 medians)
	bin/fleet bench --tacho bin/tacho --count $(COUNT) $(if $(wildcard bin/telegraf),--telegraf bin/telegraf)

telegraf: ## bin/telegraf, which make bench then measures as well (12 minutes)
	GOBIN=$(CURDIR)/bin GOWORK=off go install github.com/influxdata/telegraf/cmd/telegraf@v1.37.2

lint: ## gofmt, vet, staticcheck
	@out=$$(gofmt -l $(MODULES)); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	go vet $(PACKAGES)
	GOGC=400 go run $(STATICCHECK) $(PACKAGES)

modules: ## every module builds, vets and is tidy without the workspace
	@set -e; for m in $(MODULES); do echo "$$m, GOWORK=off"; \
	  (cd $$m && GOWORK=off go build ./... && GOWORK=off go vet ./... && GOWORK=off go mod tidy -diff); done

vuln: ## known vulnerabilities (needs the vulnerability database; says so when it cannot be reached)
	@for m in $(MODULES); do (cd $$m && go run $(GOVULNCHECK) ./...) || echo "$$m: NOT CHECKED or vulnerable, see above"; done

tidy: ## go mod tidy in every module
	go work sync
	@set -e; for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy); done

ci: lint modules race fuzz test ## everything CI runs, tests last

clean: ## remove bin (the data folder stays)
	rm -rf bin
