#!/usr/bin/env bash
# The files of deploy/ and .github/, as far as they can be tried without an account and without Docker: the units by
# systemd-analyze, Caddy and nginx with a stream through the real binary, Compose, Kubernetes and the workflows by their schemas, and
# `tollgate check` with the variables that each file sets.
#
#   scripts/deploy-check.sh target/debug/tollgate
#
# What is not installed is told of and left out; DEPLOY_SCHEMAS names a check-jsonschema (pip install check-jsonschema).
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if command -v systemd-analyze >/dev/null; then
  # The binary is where the unit has it only after an installation.
  sed "s|/usr/local/bin/tollgate|$binary|" deploy/systemd/tollgate.service >"$scratch/tollgate.service"
  cp deploy/systemd/tollgate.socket "$scratch/"
  said=$(systemd-analyze verify "$scratch/tollgate.service" "$scratch/tollgate.socket" 2>&1) || true
  if [[ -n $said ]]; then
    printf '%s\n' "$said"
    exit 1
  fi
  # 10 is a service that may do everything; the threshold is in tenths.
  systemd-analyze security --offline=true --threshold=15 --no-pager deploy/systemd/tollgate.service >"$scratch/security" ||
    { cat "$scratch/security" && exit 1; }
  tail -n 1 "$scratch/security"
else
  echo 'NOT CHECKED: the units: systemd-analyze is not installed'
fi

# The grace to end in must be shorter than what kills. (Caddy holds the streams, so it needs as long.)
grace=$(sed -n 's/^shutdown_grace = "\([0-9]*\)s"$/\1/p' tollgate.example.toml)
while IFS= read -r line; do
  if [[ $(tr -dc 0-9 <<<"${line#*:}") -le $((grace + 6)) ]]; then
    echo "shutdown_grace is $grace s, and settling takes up to 6 s more: too short is $line"
    exit 1
  fi
done < <(grep -H '^TimeoutStopSec=\|stop_grace_period:\|^kill_timeout\|maxShutdownDelaySeconds:\|^drainingSeconds\|lb_try_duration' \
  deploy/systemd/tollgate.service docker-compose.yml deploy/compose.yml deploy/fly/fly.toml deploy/render/render.yaml \
  deploy/railway/railway.toml deploy/caddy/Caddyfile)
services=$(grep -c '^  [a-z]*:$' <(sed -s '/^volumes:/,$d' docker-compose.yml deploy/compose.yml))
[[ $(cat docker-compose.yml deploy/compose.yml | grep -c 'stop_grace_period:') -eq $services ]] ||
  { echo 'a service of Compose has no stop_grace_period: Docker kills it after 10 s' && exit 1; }

python3 -c 'import sys, tomllib; tomllib.load(open(sys.argv[1], "rb"))' deploy/fly/fly.toml
python=python3
[[ -z ${DEPLOY_SCHEMAS:-} ]] || python=$(dirname "$DEPLOY_SCHEMAS")/python
if "$python" -c 'import yaml' 2>/dev/null; then
  "$python" scripts/deploy_env.py "$binary"
else
  echo 'NOT CHECKED: what each file sets, by tollgate check: install PyYAML'
fi
if [[ -n ${DEPLOY_SCHEMAS:-} ]]; then
  "$DEPLOY_SCHEMAS" --builtin-schema vendor.compose-spec deploy/compose.yml docker-compose.yml
  "$DEPLOY_SCHEMAS" --builtin-schema vendor.github-workflows .github/workflows/*.yml
else
  echo 'NOT CHECKED: Compose and the workflows by their schemas: set DEPLOY_SCHEMAS'
fi

if command -v caddy >/dev/null; then
  HOME=$scratch caddy validate --config deploy/caddy/Caddyfile >"$scratch/caddy" 2>&1 || { cat "$scratch/caddy" && exit 1; }
fi
scripts/proxy_check.py "$binary"
