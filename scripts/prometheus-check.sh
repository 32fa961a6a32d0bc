#!/usr/bin/env bash
# The alert rules and the Grafana dashboard against a real Prometheus, which reads a real `tollgate serve`: every metric that
# they name is there, every query is one, and an alert fires. On free ports of loopback; nothing leaves this machine.
# (apt-get install prometheus)
#
#   scripts/prometheus-check.sh [BINARY]      default: the debug build, which is built first
set -euo pipefail
cd "$(dirname "$0")/.."

promtool check rules deploy/prometheus/alerts.yml
promtool check config deploy/prometheus/prometheus.yml
promtool test rules deploy/prometheus/alerts.test.yml

if [[ $# -gt 0 ]]; then
  binary=$1
else
  cargo build --locked --bin tollgate
  binary=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi
PYTHONDONTWRITEBYTECODE=1 exec python3 scripts/prometheus_check.py "$binary"
