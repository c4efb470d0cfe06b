# The daily commands. Only Go and, for the race detector, a C compiler are needed; every other tool is
# pinned in a module of its own under tools/ and built on first use.

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)

BUF  := go tool -modfile=tools/buf/go.mod buf
LINT := go tool -modfile=tools/lint/go.mod
HELM := go tool -modfile=tools/helm/go.mod helm

# Longest a test run and one fuzz target may take.
TEST_TIMEOUT ?= 9m
FUZZ_TIME    ?= 20s

.DEFAULT_GOAL := build
.PHONY: help build run test e2e-keycloak e2e-kube images images-test chart manifests generate contract fmt lint vuln bench fuzz clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build every command into bin/, statically linked
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

run: build ## Bring the whole system up on this machine and walk through the demo
	bin/sallyport dev --demo

# The end-to-end tests start the binaries in bin/, so these are built first. Those on Kubernetes and of the chart, for which
# Helm is compiled, have targets of their own.
test: build ## Vet and test everything with the race detector
	go vet ./...
	SALLYPORT_REQUIRE_KUBE=$${SALLYPORT_REQUIRE_KUBE:-0} SALLYPORT_REQUIRE_HELM=$${SALLYPORT_REQUIRE_HELM:-0} CGO_ENABLED=1 \
		go test -race -timeout $(TEST_TIMEOUT) ./...

# Needs Java 17, Maven and the network the first time; see test/keycloak/README.md.
e2e-keycloak: ## Test against a real Keycloak, which is downloaded and prepared on first use
	test/keycloak/run prepare
	SALLYPORT_REQUIRE_KEYCLOAK=1 CGO_ENABLED=1 go test -race -count=1 -parallel 8 -timeout 15m ./test/keycloak

# Needs root and what `test/kube/up --help` lists; the first time Kubernetes is built, which takes half an hour.
KUBE_IMAGES := gateway,supervisor,driver-kubernetes,driver-oauth2
e2e-kube: build ## Test the chart and sandboxes as pods on a real Kubernetes, which is built on first use
	test/kube/up
	test/keycloak/run prepare
	go -C tools/images run . -root $(CURDIR) -out $(CURDIR)/build/kube/images -images $(KUBE_IMAGES) \
		-platforms linux/$$(go env GOARCH) -prefix sallyport -tag dev -version $(VERSION) -revision $(VERSION) -epoch 0
	SALLYPORT_REQUIRE_KUBE=1 CGO_ENABLED=1 go test -race -count=1 -timeout 30m ./test/kube
	test/kube/image --archive build/kube/images/supervisor.tar sallyport/supervisor:dev
	SALLYPORT_KUBECONFIG=$$(test/kube/up) CGO_ENABLED=1 go test -race -count=1 -timeout 20m ./internal/driverkube

# Needs no container engine. IMAGES, IMAGE_PLATFORMS, IMAGE_PREFIX and IMAGE_TAG choose; see docs/images.md.
images: ## Write the container images to build/images, as OCI archives with bills of materials
	go -C tools/images run . -root $(CURDIR) -out $(CURDIR)/build/images -images '$(IMAGES)' -platforms '$(IMAGE_PLATFORMS)' \
		-prefix '$(or $(IMAGE_PREFIX),sallyport)' -tag '$(IMAGE_TAG)'

images-test: ## Build the images, read them back, run them as another user, build them again elsewhere
	go -C tools/images vet ./...
	go -C tools/images test -count=1 -timeout 20m ./...

# Slow the first time: Helm is compiled from source. The tests want the gateway of bin/, which checks its settings.
chart: build ## Lint, render and package the Helm chart, into build/chart
	$(HELM) lint --strict deploy/helm/sallyport
	SALLYPORT_REQUIRE_HELM=1 go test -count=1 -timeout $(TEST_TIMEOUT) ./test/chart
	@mkdir -p build/chart
	$(HELM) package --destination build/chart deploy/helm/sallyport

manifests: build ## Write the manifests and golden files that come from the chart
	SALLYPORT_REQUIRE_HELM=1 go test -count=1 ./test/chart -run 'TestScenarios|TestManifests' -update

generate: ## Regenerate Go from the proto files, then whatever go:generate asks for
	$(BUF) generate
	go generate ./...

contract: ## Compare the proto files with the tables of the wire contract
	@mkdir -p build/contract
	$(BUF) build proto/v00 -o build/contract/0.0.binpb
	$(BUF) build proto/mvp -o build/contract/0.0-mvp-credentials.binpb
	go run ./test/contract/compare -tables test/contract \
		0.0=build/contract/0.0.binpb \
		0.0-mvp-credentials=build/contract/0.0-mvp-credentials.binpb:mvp

fmt: ## Format Go and proto files
	$(BUF) format -w
	$(LINT) gofumpt -w $$(find . -name '*.go' -not -path './gen/*')

# Slow the first time: the linters are compiled from source. golangci-lint also checks the format.
lint: ## Lint Go and proto files, scan the dependencies for known vulnerabilities
	$(BUF) lint
	$(LINT) golangci-lint run ./...
	$(MAKE) --no-print-directory vuln

# VULNDB may name a mirror (https://... or file:///...). Where none can be reached the scan says so and lets
# the rest of lint count; REQUIRE_VULN=1 makes that a failure, as a release should.
VULNDB ?= https://vuln.go.dev
vuln: ## Scan the dependencies for known vulnerabilities
	@out=$$($(LINT) govulncheck -db $(VULNDB) ./... 2>&1); status=$$?; echo "$$out"; \
		case "$$status:$$out" in \
		0:*) ;; \
		*"fetching vulnerabilities"*) echo "NOT SCANNED: $(VULNDB) cannot be reached"; test -z "$(REQUIRE_VULN)" ;; \
		*) exit $$status ;; \
		esac

bench: ## Run the benchmark programs and print one table
	go run ./test/bench

# Go fuzzes one target at a time, so that each is found by its declaration and run for FUZZ_TIME.
fuzz: ## Fuzz every target for a short time
	@grep -rnE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | while IFS=: read -r file _ decl; do \
		target=$${decl#func }; target=$${target%%(*}; \
		echo "$$target in $$(dirname $$file)"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_TIME) "$$(dirname $$file)" || exit 1; \
	done

clean: ## Remove what the other targets built
	rm -rf bin build
