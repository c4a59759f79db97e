#!/usr/bin/env bash
# Installs the real backends that `make test-backends` runs against into a folder outside the repository, by ordinary package
# clients: Go modules, Debian packages (unpacked, not installed: no root), PyPI. What is there already is left alone. What
# cannot be installed is written to missing/NAME with the reason; the tests that need it are then skipped, and say so.
#
#   tests/backends/install.sh [FOLDER]      default: $TRACEDFLOW_BACKENDS, else ~/.cache/tracedflow-backends
set -uo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${1:-${TRACEDFLOW_BACKENDS:-$HOME/.cache/tracedflow-backends}}"
python="${PYTHON:-python3}"
mkdir -p "$cache/bin" "$cache/missing" "$cache/log"
cd "$cache" || exit 1

builder=v0.158.0
jaeger=v1.76.0
mlflow=3.17.2

install() { # install NAME MADE-FILE: call the function of that name, unless what it makes is there
  local name="$1" made="$2" log="$cache/log/$1.txt"
  if [ -e "$made" ]; then
    printf '%-12s there\n' "$name"
    return
  fi
  printf '%-12s installing (log: %s)\n' "$name" "$log"
  rm -f "missing/$name"
  if ! ( set -e; "$name" ) >"$log" 2>&1 || [ ! -e "$made" ]; then
    grep -v '^go: downloading' "$log" | tail -n 1 | cut -c1-300 >"missing/$name"
    printf '%-12s not installed: %s\n' "$name" "$(cat "missing/$name")"
  fi
}

need() { command -v "$1" >/dev/null || { echo "$1 is not on this machine"; return 1; }; }

collector() {
  need go
  GOBIN="$cache/bin" go install "go.opentelemetry.io/collector/cmd/builder@$builder"
  bin/builder --config "$here/collector-builder.yaml"
  mv collector/otelcol bin/otelcol
  cp "$here/collector-builder.yaml" collector-builder.yaml
}

jaeger() { # its go.mod replaces a module, which `go install` refuses; in a copy of its sources, its own go.sum holds
  need go
  local sources
  sources="$(go mod download -json "github.com/jaegertracing/jaeger@$jaeger" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')"
  rm -rf jaeger-sources
  cp -r "$sources" jaeger-sources
  chmod -R u+w jaeger-sources
  (cd jaeger-sources && go build -o ../bin/jaeger ./cmd/all-in-one)
  rm -rf jaeger-sources
}

tempo() {
  need go
  GOBIN="$cache/bin" go install github.com/grafana/tempo/cmd/tempo@latest
}

victoriatraces() {
  need go
  GOBIN="$cache/bin" go install github.com/VictoriaMetrics/VictoriaTraces/app/victoria-traces@latest
}

prometheus() {
  need apt-get
  rm -rf debian
  mkdir debian
  (cd debian && apt-get download prometheus)
  dpkg -x debian/prometheus_*.deb debian
  mv debian/usr/bin/prometheus debian/usr/bin/promtool bin/
  rm -rf debian
}

mlflow() {
  "$python" -m venv mlflow
  mlflow/bin/pip install --quiet --disable-pip-version-check "mlflow==$mlflow"
}

# A collector of other components than the file asks for is made again.
[ -e collector-builder.yaml ] && ! cmp -s "$here/collector-builder.yaml" collector-builder.yaml && rm -f bin/otelcol

install prometheus bin/prometheus
install jaeger bin/jaeger
install collector bin/otelcol
install mlflow mlflow/bin/mlflow
install tempo bin/tempo
install victoriatraces bin/victoria-traces
rm -rf collector
echo "$cache: $(ls bin | tr '\n' ' ')"
