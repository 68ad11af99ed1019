#!/usr/bin/env bash
# Runs over two machines, with RDMA between them and QUIC on another network beside it: the word count by each of them,
# and streams whose way breaks under them. Runs in both machines that scripts/soft-roce boots: the first drives the runs,
# the second serves them.
# Usage: runs.sh FOLDER-WITH-THE-PROGRAMS
set -euo pipefail

programs=$(realpath "$1")
dflow=$programs/dflow
wordcount=$PWD/functions/examples/wordcount/wordcount.yaml
there_and_back=$PWD/control/cli/tests/machines/there-and-back.yaml
exchange=$DFLOW_VM_EXCHANGE
export PATH=$programs:$PATH DFLOW_LOG=info
cd /tmp

# How long anything may take until it is there, in tenths of a second.
patience=600

# Nobody writes to it: reading it with a timeout lets time pass without a process, which an emulated processor is slow
# to start.
mkfifo never
exec 8<> never
pause() {
  read -rt 0.1 -u 8 || true
}

fail() {
  echo "FAILED: $*" >&2
  tail -n 40 ./*.log "$exchange/worker.log" >&2 || true
  touch "$exchange/over"
  exit 1
}

# wait_until WHAT COMMAND…: until the command succeeds.
wait_until() {
  local what=$1 turns=0
  shift
  until "$@"; do
    [[ $turns -lt $patience ]] || fail "in vain: $what"
    turns=$((turns + 1))
    pause
  done
}

# ---- The second machine ----

# The node b, until the first machine has seen enough.
serve() {
  wait_until "certificates" [ -e "$exchange/identities" ]
  "$dflow" worker --identity "$exchange/lab/b" --rdma rxe0 > "$exchange/worker.log" 2>&1 &
  wait_until "the worker listens" grep -qs "listens on" "$exchange/worker.log"
  touch "$exchange/serving"
  until [[ -e $exchange/over ]]; do
    if [[ -e $exchange/lossy && ! -e $exchange/lossy-too ]]; then
      make_lossy
      touch "$exchange/lossy-too"
    fi
    pause
  done
  kill %1
  wait %1 || fail "the worker did not end well"
}

# A network that loses packets and is slow, for what this machine sends on it.
make_lossy() {
  tc qdisc add dev lan0 root netem delay 20ms loss 2% || fail "no netem"
}

if [[ $DFLOW_VM_NODE == 2 ]]; then
  serve
  exit
fi

# ---- The first machine ----

# run NAME OPTION…: a run over both machines, with its report in NAME.json.
run() {
  local name=$1
  shift
  "$dflow" run "$@" --output "$name" --identity "$exchange/lab/a" --with "b=$DFLOW_VM_LAN_PEER:7411" --format json \
    > "$name.json" 2> "$name.log" || fail "the run '$name'"
}

# count NAME TEXT PATH OPTION…: the word count, whose result is that of one machine.
count() {
  local name=$1 text=$2 path=$3
  shift 3
  "$dflow" run "$wordcount" --input "text=$text" --output "alone-$name" > /dev/null 2>&1
  # The second half waits for the path: the run could be over before it is there.
  {
    head -c 500000 "$text"
    wait_until "a path $path" grep -qs "$path" "$name.log"
    tail -c +500001 "$text"
  } | run "$name" "$wordcount" --input text=- "$@"
  cmp "$name/total" "alone-$name/total" || fail "the run '$name' has another result"
  links "$name"
}

links() {
  sed -n '/"links"/,/\]/p' "$1.json"
  says "$1" '"violations": 0'
}

says() {
  grep -q -e "$2" "$1.json" || fail "the report of '$1' does not say $2"
}

# transfer NAME PLOT: a stream there and back that goes on until the plot is over, which happens meanwhile; what comes
# back is what was sent, and nobody was started again.
transfer() {
  local name=$1 plot=$2 running
  echo "== $name"
  {
    until [[ -e $name.enough ]]; do
      cat block
      # So that little piles up while nothing goes through.
      pause
    done
    cat block
  } | tee "$name.sent" | run "$name" "$there_and_back" --input text=- --place there=b --rdma rxe0 &
  running=$!
  plot_of "$name"
  "$plot"
  touch "$name.enough"
  wait "$running" || fail "the run '$name'"
  cmp "$name/text" "$name.sent" || fail "other bytes came back than were sent"
  printf '%d bytes were sent and came back\n' "$(wc -c < "$name.sent")"
  ! grep -q '"attempt": [^1]' "$name.json" || fail "a function has seen something of it"
  links "$name"
  rm -r "$name.sent" "$name"
}

# What the functions below look at.
plot_of() {
  log=$1.log
  paths=0
}

# The streams go by this one from now on, and bytes have passed.
now_by() {
  paths=$((paths + 1))
  wait_until "path $paths of '$log', by $1" has_path "$1"
  local interface=lan0
  [[ $1 == QUIC ]] || interface=rdma0
  moved=/sys/class/net/$interface/statistics/tx_bytes
  read -r before < "$moved"
  wait_until "bytes by $1" has_moved
}

has_path() {
  [[ -e $log && $(grep -c 'from now on' "$log") -ge $paths && $(grep 'from now on' "$log" | sed -n "${paths}p") == *"by $1"* ]]
}

has_moved() {
  local now
  read -r now < "$moved"
  [[ $((now - before)) -gt 2000000 ]]
}

link_down() {
  now_by RDMA
  ip link set rdma0 down
  now_by QUIC
}

# What arrives is dropped; to drop what leaves would be an error for the sender.
packets_vanish() {
  now_by RDMA
  nft -f - << END
table ip lossy {
  chain input {
    type filter hook input priority filter
    udp dport 4791 counter drop
  }
}
END
  now_by QUIC
  nft list table ip lossy | grep 'counter packets [1-9]' || fail "no packet was dropped"
  nft delete table ip lossy
  now_by RDMA
}

# This driver has no surprise removal: the device goes when nobody has it any more.
device_removed() {
  now_by RDMA
  rdma link delete rxe0 &
  local deleting=$!
  now_by QUIC
  wait_until "nobody has the device" is_over "$deleting"
  wait "$deleting" || fail "the device was not deleted"
  rdma link add rxe0 type rxe netdev rdma0
  now_by RDMA
}

is_over() {
  ! kill -0 "$1" 2> /dev/null
}

"$dflow" cluster create "$exchange/lab" --node a --node b
touch "$exchange/identities"
for i in {1..20000}; do echo "the quick brown fox $i jumps over the lazy dog"; done > block
for _ in {1..8}; do cat block; done > text
wait_until "the other machine" [ -e "$exchange/serving" ]

echo "== what doctor finds"
doctor=("$dflow" doctor --peer "b=$DFLOW_VM_LAN_PEER:7411" --identity "$exchange/lab/a" --rdma rxe0)
"${doctor[@]}" --format json > peers.json || fail "doctor: $(cat peers.json)"
"${doctor[@]}"
grep -A 15 '"rdma"' peers.json | grep -q '"works": true' || fail "bytes do not go by RDMA: $(cat peers.json)"

echo "== a device that is not there is said at once, with those that are"
! "$dflow" worker --identity "$exchange/lab/a" --rdma rxe9 2> missing.log || fail "a worker starts without its device"
grep "'rxe9'" missing.log | grep "there are: rxe0" || fail "not said: $(cat missing.log)"

echo "== the word count by RDMA"
count rdma text "by RDMA" --rdma rxe0
says rdma '"path": "RDMA"'

transfer "the RDMA network goes down" link_down
says "the RDMA network goes down" '"path": "QUIC"'
says "the RDMA network goes down" '"why_not_rdma": ".*link'
ip link set rdma0 up

transfer "packets vanish without an error" packets_vanish
says "packets vanish without an error" '"path": "RDMA"'

transfer "the device is to go away" device_removed
says "the device is to go away" '"path": "RDMA"'

echo "== the word count by QUIC, on a network that loses packets and is slow"
make_lossy
touch "$exchange/lossy"
wait_until "the other machine" [ -e "$exchange/lossy-too" ]
count lossy block "" --rdma off
says lossy '"path": "QUIC"'
tc -s qdisc show dev lan0 | grep 'dropped [1-9]' || fail "no packet was lost"
touch "$exchange/over"
