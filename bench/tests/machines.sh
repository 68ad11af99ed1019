#!/usr/bin/env bash
# A short run of the topic 'rdma' between two machines: the report has every promised figure. Runs in both machines of
# scripts/soft-roce.
# Usage: machines.sh PROGRAM
set -euo pipefail

program=$1
[[ $DFLOW_VM_NODE == 1 ]] || exec "$program" rdma --listen "$DFLOW_VM_ADDRESS:7400"
report=$("$program" rdma --peer "$DFLOW_VM_PEER:7400" --sizes 64K --quick --repeats 1 --format json)

# row CASE SUBJECT FIGURE… checks that the row exists and its figures were measured.
row() {
  local row
  # A row's keys are in the order of the alphabet: its case comes before its figures, and its subject behind them.
  row=$(awk -v of="\"case\": \"$1\"," -v subject="\"subject\": \"$2\"," '
    index($0, of) { text = ""; inside = 1 }
    inside { text = text $0 "\n" }
    index($0, "\"subject\": ") { if (inside && index($0, subject)) printf "%s", text; inside = 0 }' <<< "$report")
  [[ $row ]] || fail "there is no row of $2 in '$1'"
  for figure in "${@:3}"; do
    grep -q "\"$figure\": [0-9.]*[1-9]" <<< "$row" || fail "no $figure of $2 in '$1'"
  done
}

fail() {
  printf 'FAILED: %s:\n%s\n' "$*" "$report" >&2
  exit 1
}

for subject in perftest verbs-write verbs-write-imm verbs-read dflow-path dflow-link-spin dflow-link-brief dflow-link-sleep; do
  row "64 KiB" "$subject" p10_ns p50_ns p90_ns p99_ns max_ns p50_over_limit
  row "chunks of 64 KiB" "$subject" bytes_per_second of_limit writer_cpu_ns_per_gib reader_cpu_ns_per_gib
done
for subject in quic-connection rdma-path register-1-mib register-17-mib stream; do
  row set-up "$subject" p50_ns
done
echo "all rows are there"
