#!/usr/bin/env bash
# The word count over two machines, with RDMA between them and QUIC on another network beside it. Runs in both machines
# that scripts/soft-roce boots: the first drives the runs, the second serves them.
# Usage: wordcount.sh FOLDER-WITH-THE-PROGRAMS
set -euo pipefail

programs=$(realpath "$1")
dflow=$programs/dflow
workflow=$PWD/functions/examples/wordcount/wordcount.yaml
exchange=$DFLOW_VM_EXCHANGE
export PATH=$programs:$PATH
cd /tmp

fail() {
  echo "FAILED: $*" >&2
  touch "$exchange/over"
  exit 1
}

# wait_for FILE: until the other machine has made it, or has given up.
wait_for() {
  until [[ -e $exchange/$1 ]]; do
    [[ ! -e $exchange/over || $1 == over ]] || exit 1
    read -rt 0.1 < /dev/zero || true
  done 2> /dev/null
}

serve() {
  wait_for identities
  DFLOW_LOG=info "$dflow" worker --identity "$exchange/lab/b" --rdma rxe0 > "$exchange/worker.log" 2>&1 &
  touch "$exchange/serving"
  wait_for over
  kill %1
  wait %1 || fail "the worker did not end well"
}

# drive NAME [OPTION]…: a run over both machines, with its report in NAME.json.
drive() {
  local name=$1
  shift
  DFLOW_LOG=info "$dflow" run "$workflow" --input text=text --output "$name" --identity "$exchange/lab/a" \
    --with "b=$DFLOW_VM_LAN_PEER:7411" --rdma rxe0 --format json "$@" > "$name.json" 2> "$name.log" || {
    cat "$name.log" "$exchange/worker.log" >&2
    fail "the run '$name'"
  }
  cmp "$name/total" alone/total || fail "the run '$name' has another result"
  grep -A 8 '"links"' "$name.json"
}

says() {
  grep -q "$2" "$1.json" || {
    cat "$1.log" >&2
    fail "the report of '$1' does not say $2"
  }
}

if [[ $DFLOW_VM_NODE == 2 ]]; then
  serve
  exit
fi

"$dflow" cluster create "$exchange/lab" --node a --node b
touch "$exchange/identities"
for i in {1..20000}; do echo "the quick brown fox $i jumps over the lazy dog"; done > lines
for _ in {1..24}; do cat lines; done > text
"$dflow" run "$workflow" --input text=text --output alone > /dev/null
wait_for serving

echo "== what doctor finds"
"$dflow" doctor --peer "b=$DFLOW_VM_LAN_PEER:7411" --identity "$exchange/lab/a" --rdma rxe0 --format json > peers.json ||
  fail "doctor: $(cat peers.json)"
"$dflow" doctor --peer "b=$DFLOW_VM_LAN_PEER:7411" --identity "$exchange/lab/a" --rdma rxe0
grep -A 15 '"rdma"' peers.json | grep -q '"works": true' || fail "bytes do not go by RDMA: $(cat peers.json)"

echo "== by RDMA"
drive rdma
says rdma '"path": "RDMA"'

echo "== the RDMA network goes down in the middle of a run"
(
  until grep -qs 'go by RDMA' down.log; do read -rt 0.05 < <(:) || true; done
  read -rt 0.5 < <(sleep 0.5) || true
  ip link set rdma0 down
) &
drive down
says down '"path": "QUIC"'
wait

echo "== and is used again when it is up"
ip link set rdma0 up
drive up
says up '"path": "RDMA"'
touch "$exchange/over"
