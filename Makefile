# Few targets on purpose; .ci/run is what has to pass.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build test race lint ci clean run

build:
	go build -o bin/oncekv ./cmd/oncekv

test:
	go test ./...

race:
	go test -race -timeout 15m ./...

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

ci:
	.ci/run

run: build
	./bin/oncekv dev

# Removes what was built. The data of local clusters, ./data, stays.
clean:
	rm -rf bin
