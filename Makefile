# One target for each habit. .ci/run is what has to pass.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build dev test race sim faults bench page lint ci release clean

build:
	go build -o bin/oncekv ./cmd/oncekv

# Runs the whole system on this machine: make dev ARGS='--port-offset 1000'
dev: build
	./bin/oncekv dev $(ARGS)

test:
	go test ./...

race:
	go test -race -timeout 45m ./...

# Simulates clusters, WORLDS of them from seed FROM on. To see what happens in one:
# go test ./raftnode -run TestSimulation -v -sim.seed SEED
WORLDS ?= 200
FROM ?= 1
sim:
	go test -count=1 -timeout 0 -v -run '^TestSimulation$$' ./raftnode -sim.from $(FROM) -sim.seeds $(WORLDS)

# Attacks clusters of real processes, each row of the fault matrix once, or the rows
# that match ROW. Needs Linux and root: docs/faults.md.
ROW ?= .
faults:
	ONCEKV_TEST_FULL=1 go test -count=1 -timeout 3h -v ./integration/faults -row '$(ROW)'

# Measures oncekv beside etcd and NATS: docs/benchmarks.md. The short cases take a
# quarter of an hour, after the programs are built.
PARTS ?= short
bench:
	cd bench/peers && go run . -parts $(PARTS) $(ARGS)

# Tests the admin page and builds adminui/dist from its sources. Needs Node.
page:
	cd adminui && npm ci --no-audit --no-fund && npm test && npm run build

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

ci:
	.ci/run

# Archives, bills of materials and checksums in ./dist; the same bytes wherever
# they are built with the same Go.
VERSION ?= $(shell git describe --tags --always --dirty)
release:
	go run ./deploy/release -version $(VERSION) -out dist

# Removes what was built. The data of local clusters, ./data, stays.
clean:
	rm -rf bin dist
