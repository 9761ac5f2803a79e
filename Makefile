# Few targets on purpose; .ci/run is what has to pass.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build test race lint ci clean run release

build:
	go build -o bin/oncekv ./cmd/oncekv

test:
	go test ./...

race:
	go test -race -timeout 45m ./...

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

ci:
	.ci/run

run: build
	./bin/oncekv dev

# Archives, bills of materials and checksums in ./dist; the same bytes wherever
# they are built with the same Go.
VERSION ?= $(shell git describe --tags --always --dirty)
release:
	go run ./deploy/release -version $(VERSION) -out dist

# Removes what was built. The data of local clusters, ./data, stays.
clean:
	rm -rf bin dist
