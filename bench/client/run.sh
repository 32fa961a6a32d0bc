#!/usr/bin/env bash
# Measures our HTTP/1 client (http1/) beside hyper's. Needs valgrind for the instructions.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --release
program=${CARGO_TARGET_DIR:-target}/release/tollgate-bench-client
port=18200
"$program" server $port &
server=$!
trap 'kill $server' EXIT
sleep 0.5
for _ in 1 2 3; do
  for client in ours hyper; do
    "$program" $client $port whole 8000 16
    "$program" $client $port stream 800 16
  done
done
for client in ours hyper; do "$program" $client $port hold 1000; done
# The difference of two counts is what the requests between them took.
for load in "whole 200" "whole 1200" "stream 50" "stream 150"; do
  for client in ours hyper; do
    counted=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" $client $port $load 8 2>&1 | grep -o 'Collected : [0-9]*')
    echo "$client $load: $counted instructions"
  done
done
