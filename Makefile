# Everything from a fresh clone: needs make and Python 3.11 to 3.13; uv is used when it is there, else put into .tools/.

# The first of these that runs and is of a supported version (a name on PATH may be a shim for one not installed).
PYTHON := $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& command -v $$python && break; done)
UV := $(shell command -v uv || echo .tools/bin/uv)
SYNCED := .venv/.synced

TIER := .venv/bin/python -m pytest -m

.PHONY: demo test test-slow test-all test-peers peers cluster faults lint types docs proto setup

demo: $(SYNCED)
	@echo "demo: a trace through all stages on an embedded Kafka"
	@.venv/bin/leadtime demo $(ARGS)

test: $(SYNCED)
	@echo "test: the fast tier in two processes: unit tests beside those on a real Kafka"
	@$(TIER) fast -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

test-slow: $(SYNCED)
	@echo "test-slow: the slow tier"
	@$(TIER) slow $(ARGS)

test-all: test test-slow

# Real peers, built from Go modules into the user's cache; tests/peers/*/go.mod name their versions.
PEERS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/leadtime/peers
KUBERNETES := tests/peers/kubernetes
KWOK := tests/peers/kwok
HELM := tests/peers/helm
GITVERSION := $(shell sed -n 's/^require k8s.io\/kubernetes //p' $(KUBERNETES)/go.mod)
STAGES := node/fast/node-initialize.yaml pod/fast/pod-ready.yaml pod/fast/pod-delete.yaml

peers: $(addprefix $(PEERS)/,kube-apiserver kube-controller-manager kube-scheduler kubectl kwok helm)

$(PEERS)/kube%: $(KUBERNETES)/go.mod $(KUBERNETES)/go.sum
	@command -v go >/dev/null || { echo "peers: no go on PATH" >&2; exit 2; }
	@echo "peers: kube$* $(GITVERSION) into $(PEERS): some minutes of a core, the first time"
	@cd $(KUBERNETES) && CGO_ENABLED=0 go build -trimpath -o $@ \
		-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$(GITVERSION)" k8s.io/kubernetes/cmd/kube$*

$(PEERS)/kwok: $(KWOK)/go.mod $(KWOK)/go.sum
	@command -v go >/dev/null || { echo "peers: no go on PATH" >&2; exit 2; }
	@echo "peers: kwok into $(PEERS): two minutes of a core, the first time"
	@cd $(KWOK) && CGO_ENABLED=0 go build -trimpath -o $@.new -ldflags "-s -w" sigs.k8s.io/kwok/cmd/kwok \
		&& mkdir -p $(PEERS)/stages && cd "$$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage" \
		&& install -m 644 $(STAGES) $(PEERS)/stages && mv $@.new $@

$(PEERS)/helm: $(HELM)/go.mod $(HELM)/go.sum
	@command -v go >/dev/null || { echo "peers: no go on PATH" >&2; exit 2; }
	@echo "peers: helm into $(PEERS): some minutes of a core, the first time"
	@cd $(HELM) && CGO_ENABLED=0 go build -trimpath -o $@ -ldflags "-s -w" helm.sh/helm/v3/cmd/helm

test-peers: $(SYNCED) peers
	@echo "test-peers: the provider of Kubernetes and the chart on a real API server and controllers; needs etcd on PATH"
	@.venv/bin/python -m pytest tests/peers $(ARGS)

cluster: $(SYNCED) peers
	@.venv/bin/python -m tests.peers.cluster $(or $(SPEED),1)

faults: $(SYNCED)
	@echo "faults: stages killed, frozen and starved during a replay, seeds from $(or $(SEED),0)"
	@FAULTS_SEED=$(SEED) .venv/bin/python -m pytest tests/faults/test_killed.py tests/faults/test_soak.py $(ARGS)

lint: $(SYNCED)
	@echo "lint: ruff's rules and format"
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet

types: $(SYNCED)
	@echo "types: basedpyright"
	@.venv/bin/basedpyright --warnings

docs: $(SYNCED)
	@echo "docs: the site of docs/ into .site/; a broken link fails"
	@.venv/bin/zensical build --strict $(ARGS)

# The modules of KEDA's gRPC contract, from its .proto.
proto: $(SYNCED)
	@.venv/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. pipeline/scaler/externalscaler.proto

setup: $(SYNCED)
	@:

$(SYNCED): pyproject.toml uv.lock | $(UV)
	@test -n "$(PYTHON)" || { echo "setup: no Python 3.11 to 3.13 found on PATH" >&2; exit 2; }
	@echo "setup: the locked dependencies into .venv, with $(PYTHON)"
	@$(UV) sync --locked --quiet --python $(PYTHON)
	@touch $@

.tools/bin/uv:
	@test -n "$(PYTHON)" || { echo "setup: no Python 3.11 to 3.13 found on PATH" >&2; exit 2; }
	@echo "setup: uv into .tools"
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv
