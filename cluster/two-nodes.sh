#!/usr/bin/env bash
# A Ray cluster of two nodes on this machine, for trying what only shows with more than one.
#
#   eval "$(cluster/two-nodes.sh start)"      start it; the exported lines let this shell use it
#   cluster/two-nodes.sh status [OPTION...]   the nodes it knows, with options of `ray list nodes`
#   cluster/two-nodes.sh stop                 end it, and nothing else
#
# From the environment: NODE_CPUS, FTRAY_STORAGE, CLUSTER_DIR, GCS_PORT, DASHBOARD_PORT, CLIENT_PORT,
# START_TIMEOUT, STOP_TIMEOUT. SECOND_NODE_IN: a command that runs its arguments, as the second node
# does; one that calls unshare gives that node another view of the files. Several clusters can run side
# by side, each with its own CLUSTER_DIR and ports.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$PATH:$root/.venv/bin"

NODE_CPUS=${NODE_CPUS:-1}
CLUSTER_DIR=${CLUSTER_DIR:-/tmp/ftray-$(id -u)}
GCS_PORT=${GCS_PORT:-6379}
DASHBOARD_PORT=${DASHBOARD_PORT:-8265}
CLIENT_PORT=${CLIENT_PORT:-10001}
SECOND_NODE_IN=${SECOND_NODE_IN:-}
START_TIMEOUT=${START_TIMEOUT:-90}
STOP_TIMEOUT=${STOP_TIMEOUT:-10}
export FTRAY_STORAGE=${FTRAY_STORAGE:-$PWD/ftray-data}
case $FTRAY_STORAGE in
  /* | *://*) ;;
  *) FTRAY_STORAGE=$PWD/${FTRAY_STORAGE#./} ;; # workers have another working directory
esac

# Whoever reaches a Ray cluster can run code on it, from any account of this machine.
export RAY_AUTH_MODE=token
# Left set, these would point the commands below at another cluster.
unset RAY_ADDRESS RAY_API_SERVER_ADDRESS

say() { echo "two-nodes: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# PID START PARENT SESSION of every process. START tells a process from a later one of the same PID.
processes() {
  # Processes end while this reads them; a name in parentheses may hold spaces.
  { cat /proc/[0-9]*/stat 2>/dev/null || true; } |
    awk '{ pid = $1; sub(/.*\) /, ""); if ($1 != "Z") print pid, $20, $2, $4 }'
}

# PID START of all that runs for the nodes in $1 (PID START lines). A job's driver has a session of its
# own, so descent counts as well as the session.
members() {
  awk 'NR == FNR { root[$1] = $2; next }
       { start[$1] = $2; parent[$1] = $3; session[$1] = $4 }
       END {
         # The number of a session is not given away while it has members, so a process that bears
         # a root'"'"'s number and began at another time says that the root and its session are gone.
         for (pid in root) if (pid in start && start[pid] != root[pid]) delete root[pid]
         do {
           grown = 0
           for (pid in start)
             if (!(pid in mine) && (session[pid] in root || parent[pid] in mine)) grown = mine[pid] = 1
         } while (grown)
         for (pid in mine) print pid, start[pid]
       }' <(echo "$1") <(processes)
}

# Those of the PID START lines in $1 that are still there.
remaining() { grep -Fxf <(processes | cut -d' ' -f1,2) <<<"$1" || true; }

recorded() { cat "$CLUSTER_DIR/nodes" 2>/dev/null || true; }

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

check_can_start() {
  command -v ray >/dev/null || die "ray is not on PATH: activate the environment ftray is installed in"
  # Ray's socket paths lie some 65 characters below it and may have 107.
  ((${#CLUSTER_DIR} <= 40)) || die "CLUSTER_DIR is too long for socket paths (40 characters): $CLUSTER_DIR"
  [[ -z $(members "$(recorded)") ]] ||
    die "already running in $CLUSTER_DIR; end it with: CLUSTER_DIR=$CLUSTER_DIR $0 stop"
  local name
  for name in GCS_PORT DASHBOARD_PORT CLIENT_PORT; do
    ! listening "${!name}" || die "port ${!name} is in use; choose another with $name=..."
  done
}

make_cluster_dir() {
  (umask 077 && mkdir -p "$CLUSTER_DIR")
  # In a shared /tmp another account could have made it first, to read or to swap what lies in it.
  [[ -O $CLUSTER_DIR && ! -L $CLUSTER_DIR ]] || die "$CLUSTER_DIR belongs to someone else; set CLUSTER_DIR"
  rm -rf "$CLUSTER_DIR"/{nodes,ray,n2,head.log,worker.log}
}

make_token() {
  [[ -n ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} ]] && return
  local output
  output=$(umask 077 && ray get-auth-token --generate 2>&1) || die "Ray made no auth token: $output"
}

# start_node NAME FOLDER WRAPPER OPTION...: in a session of its own, so that it outlives this shell and stop
# finds it. Ports that both nodes would take by default are left to the kernel (0). Each node has a
# folder of its own, as on two hosts: they would unpack a job's files over each other in one.
start_node() {
  local log=$CLUSTER_DIR/$1.log folder=$CLUSTER_DIR/$2 wrapper=$3
  shift 3
  setsid ${wrapper:+"$wrapper"} ray start --block --disable-usage-stats --temp-dir="$folder" --num-cpus="$NODE_CPUS" \
    --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 "$@" \
    >"$log" 2>&1 </dev/null &
  started+="$! $(processes | awk -v pid=$! '$1 == pid { print $2 }')"$'\n' # no START: gone already
  echo "$started" >"$CLUSTER_DIR/nodes"
}

nodes() { ray list nodes --address="http://127.0.0.1:$DASHBOARD_PORT" --filter=state=ALIVE "$@"; }

alive() { [[ $(nodes --format=json 2>/dev/null | grep -o '"node_id"' | wc -l) == "$1" ]]; }

all_run() { [[ $(remaining "$started")$'\n' == "$started" ]]; }

# join COUNT NAME FOLDER WRAPPER OPTION...: start a node and wait until COUNT are alive. On a busy machine
# Ray gives a node up that takes longer than some 20 s: the node is then started again, twice at most.
join() {
  local count=$1 before=$started attempt
  shift
  for attempt in 1 2 3; do
    started=$before
    start_node "$@"
    while all_run; do
      if alive "$count"; then return; fi
      ((SECONDS < START_TIMEOUT)) || fail "not within $START_TIMEOUT s: $count nodes are alive"
      sleep 0.5
    done
    ((attempt == 3)) || end_nodes "${started#"$before"}"
  done
  fail "node $1 ended before it was alive"
}

fail() {
  tail -n 15 "$CLUSTER_DIR"/*.log >&2
  end_nodes "$started"
  die "$1; the end of the nodes' output is above, all of it in $CLUSTER_DIR"
}

start() {
  check_can_start
  make_cluster_dir
  make_token
  started=
  trap 'fail "interrupted"' INT TERM
  join 1 head ray "" --head --port="$GCS_PORT" --ray-client-server-port="$CLIENT_PORT" \
    --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD_PORT"
  join 2 worker n2 "$SECOND_NODE_IN" --address="127.0.0.1:$GCS_PORT"
  say "two nodes of $NODE_CPUS CPU each; dashboard http://127.0.0.1:$DASHBOARD_PORT, logs in $CLUSTER_DIR"
  cat <<END
export RAY_AUTH_MODE=token
export RAY_ADDRESS=127.0.0.1:$GCS_PORT
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$DASHBOARD_PORT
export FTRAY_STORAGE=$(printf %q "$FTRAY_STORAGE")
END
}

# send SIGNAL LINES: to the processes of these PID START lines.
send() {
  local pid
  while read -r pid _; do
    [[ -z $pid ]] || kill "-$1" "$pid" 2>/dev/null || true
  done <<<"$2"
}

# Asked to end, a node ends what it started in order; what has not followed in time is killed.
end_nodes() {
  local ours deadline=$((SECONDS + STOP_TIMEOUT))
  ours=$(members "$1")
  send TERM "$(remaining "$1")"
  while ours=$(remaining "$ours") && [[ -n $ours ]] && ((SECONDS < deadline)); do sleep 0.2; done
  send KILL "$ours"
}

stop() {
  [[ -n $(members "$(recorded)") ]] || die "nothing runs in $CLUSTER_DIR"
  end_nodes "$(recorded)"
  rm -f "$CLUSTER_DIR/nodes"
  say "stopped"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  status) nodes "${@:2}" ;;
  *)
    echo "usage: $0 start|stop|status" >&2
    exit 2
    ;;
esac
