#!/usr/bin/env bash
# Tests runs over two machines, which are connected by RDMA and by another network for QUIC: the word count over each of
# them, streams whose path breaks, and nodes that are killed. The script runs in both machines that scripts/soft-roce boots:
# the first drives the runs, the second serves them and executes commands of the first.
# Usage: runs.sh DIRECTORY-OF-THE-PROGRAMS
set -euo pipefail

programs=$(realpath "$1")
dflow=$programs/dflow
wordcount=$PWD/functions/examples/wordcount/wordcount.yaml
there_and_back=$PWD/control/cli/tests/machines/there-and-back.yaml
exchange=$DFLOW_VM_EXCHANGE
export PATH=$programs:$PATH DFLOW_LOG=info
cd /tmp

# Time limit of every wait, in tenths of a second.
patience=600

# The silence limit of tests that kill a node, and the time that emulated machines additionally take to report the loss and
# to clean up, in seconds.
silence=3
slack=6

# It has no data: reading it with a timeout sleeps without starting a process, which is slow on an emulated processor.
mkfifo never
exec 8<> never
pause() {
  read -rt 0.1 -u 8 || true
}

fail() {
  echo "FAILED: $*" >&2
  tail -n 40 ./*.log "$exchange"/*.log >&2 || true
  touch "$exchange/over"
  exit 1
}

# Prints the name of the next test, and the elapsed time in seconds.
chapter() {
  echo "== $* (after $SECONDS s)"
}

# wait_until WHAT COMMAND…: until the command succeeds.
wait_until() {
  local what=$1 turns=0
  shift
  until "$@"; do
    [[ $turns -lt $patience ]] || fail "timed out: $what"
    turns=$((turns + 1))
    pause
  done
}

# The resources of the RDMA device that are in use, by all processes.
held() {
  local text
  text=$(rdma resource show rxe0)
  # Without the device's number, which changes each time that the device is created.
  echo "${text#*: }"
}

# Asserts that no resources of a run are in use any more.
is_idle() {
  [[ $(held) == "$idle" ]]
}

# Makes a network slow and lossy for packets that this machine sends.
make_lossy() {
  tc qdisc add dev "$1" root netem delay "$2" loss "$3" || fail "no netem"
}

has_dropped() {
  tc -s qdisc show dev "$1" | grep -q 'dropped [1-9]'
}

# ---- The second machine ----

# Executes the commands of the first machine.
serve() {
  local number=1 order
  idle=$(held)
  wait_until "certificates" [ -e "$exchange/identities" ]
  start_workers
  touch "$exchange/serving"
  while [[ ! -e $exchange/over ]]; do
    if [[ -e $exchange/order-$number ]]; then
      read -ra order < "$exchange/order-$number"
      "${order[@]}"
      touch "$exchange/obeyed-$number"
      number=$((number + 1))
    fi
    pause
  done
  local name
  for name in "${!workers[@]}"; do
    kill "${workers[$name]}"
    # 128 + SIGTERM, the signal that ended it.
    wait "${workers[$name]}" || [[ $? == 143 ]] || fail "the worker '$name' did not end well"
  done
}

# The node b twice: with a device by its name, which it takes for peers on the other network, too; and as it is by
# default, with that on which the peer is.
start_workers() {
  start_worker default --listen 0.0.0.0:7412
  start_worker named "${named[@]}"
}
named=(--rdma rxe0 --metrics "$DFLOW_VM_LAN_ADDRESS:9411")

# start_worker NAME OPTION…
declare -A workers
start_worker() {
  local name=$1
  shift
  "$dflow" worker --identity "$exchange/lab/b" "$@" > "$exchange/$name.log" 2>&1 &
  workers[$name]=$!
  wait_until "the worker '$name' listens" grep -qs "listens on" "$exchange/$name.log"
}

fail_queue_pairs() {
  "$programs/examples/fail-queue-pairs" "${workers[named]}" || fail "no queue pair has failed"
}

kill_worker() {
  kill -KILL "${workers[named]}"
}

# Its resources are free, so the device can be removed and created again.
start_again() {
  wait_until "the device is let go of" is_idle
  rdma link delete rxe0
  rdma link add rxe0 type rxe netdev rdma0
  mv "$exchange/named.log" "$exchange/killed.log"
  start_worker named "${named[@]}"
}

if [[ $DFLOW_VM_NODE == 2 ]]; then
  serve
  exit
fi

# ---- The first machine ----

# ask COMMAND…: executes a command on the second machine.
orders=0
ask() {
  orders=$((orders + 1))
  echo "$*" > "$exchange/part"
  mv "$exchange/part" "$exchange/order-$orders"
  wait_until "the second machine: $*" [ -e "$exchange/obeyed-$orders" ]
}

# has_metrics LINE…: the worker's metrics have these lines; a LINE is a pattern.
has_metrics() {
  local page line
  exec 9<> "/dev/tcp/$DFLOW_VM_LAN_PEER/9411" || return
  printf 'GET /metrics HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n' >&9
  page=$(cat <&9)$'\n'
  exec 9>&-
  for line; do
    # shellcheck disable=SC2053 # a pattern
    [[ $page == *$'\n'$line$'\n'* ]] || return
  done
}

# The address of the node b.
peer=$DFLOW_VM_LAN_PEER:7411

# Prints the device with the index of this machine's address in its table.
device_and_address() {
  local index gid
  for index in {0..9}; do
    read -r gid < "/sys/class/infiniband/rxe0/ports/1/gids/$index"
    [[ $gid != *:0000:ffff:0a4d:0001 ]] || break
  done
  echo "rxe0:$index"
}

# run NAME OPTION…: a run over both machines, with its report in NAME.json.
run() {
  local name=$1
  shift
  "$dflow" run "$@" --output "$name" --identity "$exchange/lab/a" --with "b=$peer" --format json \
    > "$name.json" 2> "$name.log" || fail "the run '$name'"
}

# count NAME TEXT PATH OPTION…: the word count, whose result is the same as on one machine.
count() {
  local name=$1 text=$2 path=$3
  shift 3
  "$dflow" run "$wordcount" --input "text=$text" --output "alone-$name" > /dev/null 2>&1
  # The second half waits for the path: otherwise the run could end before the path exists.
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

# transfer NAME PLOT: a stream there and back that lasts until the function PLOT, which runs at the same time, has ended. The
# bytes that come back are those that were sent, and no function was restarted.
transfer() {
  local name=$1 plot=$2 running
  chapter "$name"
  {
    until [[ -e $name.enough ]]; do
      cat block
      # Keeps the backlog small while no bytes pass.
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

# Used by the functions below.
plot_of() {
  log=$1.log
  paths=0
}

# Waits until the next path is of this kind.
next_by() {
  paths=$((paths + 1))
  wait_until "path $paths of '$log', by $1" has_path "$1"
}

# Waits until the streams use a path of this kind, and bytes have passed.
now_by() {
  next_by "$1"
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

link_down_and_up() {
  now_by RDMA
  wait_until "the metrics say RDMA" has_metrics 'dflow_peer_paths{peer="a",path="rdma"} 1'
  ip link set rdma0 down
  now_by QUIC
  wait_until "the metrics say QUIC, and why" has_metrics 'dflow_peer_paths{peer="a",path="quic"} 1' \
    'dflow_peer_paths{peer="a",path="rdma"} 0' 'dflow_peer_without_rdma_info{peer="a",reason="?*"} 1' \
    'dflow_peer_failovers_total{peer="a"} 1'
  wait_until "the missing link is named" grep -q 'no RDMA.*has no link' "$log"
  ip link set rdma0 up
  now_by RDMA
}

# Drops arriving packets; dropping outgoing ones would be an error for the sender.
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

# Fails queue pairs as if the device had detected an error: first those of this machine, then those of the other one. RDMA may
# be back before many bytes have passed over QUIC.
queue_pairs_fail() {
  now_by RDMA
  # shellcheck disable=SC2046 # the driver, and its launcher, which has none
  "$programs/examples/fail-queue-pairs" $(pidof dflow) || fail "no queue pair has failed"
  next_by QUIC
  grep 'a path is lost' "$log" | grep -q 'its queue pair was ended' || fail "the failed queue pair is not reported"
  now_by RDMA
  ask fail_queue_pairs
  next_by QUIC
  now_by RDMA
}

# This driver has no surprise removal: the device disappears when it is no longer in use.
device_removed() {
  now_by RDMA
  rdma link delete rxe0 &
  local deleting=$!
  now_by QUIC
  wait_until "the device is no longer in use" is_over "$deleting"
  wait "$deleting" || fail "the device was not deleted"
  rdma link add rxe0 type rxe netdev rdma0
  now_by RDMA
}

# Packets are randomly lost and delayed in both directions: over RDMA or QUIC, all bytes arrive.
rdma_is_lossy() {
  now_by RDMA
  ask make_lossy rdma0 2ms 1%
  make_lossy rdma0 2ms 1%
  wait_until "packets are lost" has_dropped rdma0
  ask wait_until "packets-are-lost" has_dropped rdma0
}

is_over() {
  ! kill -0 "$1" 2> /dev/null
}

# endless NAME: starts an endless stream there and back over RDMA; sets `driver`.
endless() {
  local name=$1
  chapter "$name"
  "$dflow" run "$there_and_back" --input text=- --place there=b --rdma "$(device_and_address)" --silence "${silence}s" --output "$name" \
    --identity "$exchange/lab/a" --with "b=$peer" --format json > "$name.json" 2> "$name.log" \
    < <(while cat block; do pause; done 2> /dev/null) &
  driver=$!
  plot_of "$name"
  now_by RDMA
}

# in_time SECONDS: asserts that no more than this time, the silence limit and the slack have passed since `began`.
in_time() {
  local took=$((SECONDS - began))
  echo "noticed after $took s"
  [[ $took -le $((silence + slack)) ]] || fail "$1 was noticed only after $took s"
}

# This node reports the lost one, and has released its own resources when it exits.
worker_is_killed() {
  endless "the worker is killed"
  ask kill_worker
  local status=0 began=$SECONDS
  wait "$driver" || status=$?
  in_time "the end of the worker"
  [[ $status -eq 1 ]] || fail "the run ended with $status"
  says "the worker is killed" 'node b is lost'
  [[ ! -e "the worker is killed" ]] || fail "there are outputs"
  wait_until "nothing is held here" is_idle
  ask start_again
}

# The worker continues to run, and releases all resources of the run.
driver_is_killed() {
  endless "the driver is killed"
  kill -KILL "$driver"
  local began=$SECONDS
  wait "$driver" || true
  ask wait_until "the-worker-has-let-go" is_idle
  in_time "the end of the driver"
  wait_until "nothing is held here" is_idle
  wait_until "the metrics know of no run" has_metrics 'dflow_runs 0'
}

"$dflow" cluster create "$exchange/lab" --node a --node b
for i in {1..20000}; do echo "the quick brown fox $i jumps over the lazy dog"; done > block
for _ in {1..8}; do cat block; done > text
idle=$(held)
touch "$exchange/identities"
wait_until "the other machine" [ -e "$exchange/serving" ]

chapter "what doctor finds"
doctor=("$dflow" doctor --peer "b=$peer" --identity "$exchange/lab/a" --rdma "$(device_and_address)")
"${doctor[@]}" --format json > peers.json || fail "doctor: $(cat peers.json)"
"${doctor[@]}"
grep -A 15 '"rdma"' peers.json | grep -q '"works": true' || fail "bytes do not go by RDMA: $(cat peers.json)"
grep -q "10.77.0.1 (" peers.json || fail "the address is not that which was named: $(cat peers.json)"

chapter "a device or an address that is not there is said at once, with those that are"
for missing in rxe9 rxe0:99; do
  ! "$dflow" worker --identity "$exchange/lab/a" --rdma "$missing" 2> missing.log || fail "a worker starts without its device"
  grep "rxe9\|index 99" missing.log | grep "the devices are: rxe0\|it has: .*10.77.0.1" || fail "not said: $(cat missing.log)"
done

chapter "the word count by RDMA, which nobody has asked for"
peer=$DFLOW_VM_PEER:7412 count default text "by RDMA"
says default '"path": "RDMA"'

transfer "the RDMA network goes down and comes back" link_down_and_up
says "the RDMA network goes down and comes back" '"path": "RDMA"'

transfer "packets vanish without an error" packets_vanish
says "packets vanish without an error" '"path": "RDMA"'

transfer "queue pairs fail" queue_pairs_fail
says "queue pairs fail" '"path": "RDMA"'

transfer "the device is to go away" device_removed
says "the device is to go away" '"path": "RDMA"'

worker_is_killed
driver_is_killed

transfer "the RDMA network loses packets and is slow" rdma_is_lossy
ask tc qdisc delete dev rdma0 root
tc qdisc delete dev rdma0 root

chapter "the word count by QUIC, on a network that loses packets and is slow"
make_lossy lan0 20ms 2%
ask make_lossy lan0 20ms 2%
count lossy block "" --rdma off
says lossy '"path": "QUIC"'
says lossy '"why_not_rdma": "it is switched off"'
has_dropped lan0 || fail "no packet was lost"
touch "$exchange/over"
