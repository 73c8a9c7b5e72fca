#!/usr/bin/env bash
# Shows a whole cluster on this machine: three nodes, each beside its own MariaDB. Run it as root
# on Debian 12; it installs what is missing.
#
#   deploy/demo.sh          sets it up, kills the leader, and leaves the cluster running
#   deploy/demo.sh --once   the same, and removes everything at the end
#   deploy/demo.sh status   what runs, and how to connect
#   deploy/demo.sh stop     stops and removes everything
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NODES=(n1 n2 n3)
readonly HOME_DIR=/var/tmp/wolfscale-demo
readonly MARK=$HOME_DIR/.wolfscale-demo
readonly READY_SECONDS_MAX=120
readonly FAILOVER_SECONDS_MAX=60
readonly REJOIN_SECONDS_MAX=120
readonly START_US=${EPOCHREALTIME/./}

elapsed() {
    local us=$((${EPOCHREALTIME/./} - START_US))
    printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10))
}
say() { printf '[%6s s] %s\n' "$(elapsed)" "$*"; }
more() { printf '%11s%s\n' '' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }
fail_with_log() {
    printf 'demo: %s; the end of %s:\n' "$1" "$2" >&2
    tail -n 20 "$2" | sed 's/^/      /' >&2
    exit 1
}

# --- what is where -------------------------------------------------------------------------------

port() { sed -n "s/^$1 $2 //p" "$HOME_DIR/ports"; }
password() { cat "$HOME_DIR/secret/$1"; }

# Asks a node. Its exit code also tells whether all is well, which is not the question here.
wolfctl() {
    local node=$1
    shift
    "$CARGO_TARGET_DIR/debug/wolfctl" --endpoint "127.0.0.1:$(port "$node" grpc)" \
        --secret-file "$HOME_DIR/secret/cluster" --timeout 2s "$@" || true
}

# SQL on a node's database by the ordinary client, as an application would connect: by TCP.
sql() {
    local node=$1
    shift
    MYSQL_PWD=$(password app) timeout --foreground 15 mariadb --no-defaults --protocol=tcp \
        --host=127.0.0.1 --port="$(port "$node" db)" --user=app --connect-timeout=5 \
        --batch --skip-column-names --execute="$*"
}

# --- processes, by their pid, and only if they are ours ------------------------------------------

# The pid in a file, if that process still is what was started.
live_pid() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 1
    [[ $pid =~ ^[0-9]+$ ]] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$HOME_DIR/" &&
        printf '%s\n' "$pid"
}

# A node is two processes: one that does the work, and its parent, which fences the database when
# the first dies. Parent first, so that it does not start another.
node_pids() {
    local pid
    pid=$(live_pid "$HOME_DIR/$1/node.pid") || return 0
    printf '%s\n' "$pid"
    pgrep -P "$pid" -x wolfscale || true
}
db_pid() { live_pid "$HOME_DIR/$1/run/db.pid" || true; }

wait_gone() {
    local pid
    for pid in "$@"; do
        while [[ -e /proc/$pid && $(awk '{print $3}' "/proc/$pid/stat" 2>/dev/null) != Z ]]; do
            sleep 0.05
        done
    done
}

kill_now() {
    local pids=("$@")
    ((${#pids[@]})) || return 0
    kill -9 "${pids[@]}" 2>/dev/null || true
    wait_gone "${pids[@]}"
}

start_node() {
    local dir=$HOME_DIR/$1
    setsid "$CARGO_TARGET_DIR/debug/wolfscale" start --config "$dir/wolfscale.toml" \
        >>"$dir/node.log" 2>&1 </dev/null 8>&- &
    printf '%s\n' $! >"$dir/node.pid"
    disown
}

remove_all() {
    [[ -e $MARK ]] || return 0
    local node pids
    for node in "${NODES[@]}"; do
        mapfile -t pids < <(node_pids "$node")
        kill_now "${pids[@]}"
    done
    # A node that dies fences its database by starting it again, so the databases come last.
    for node in "${NODES[@]}"; do
        mapfile -t pids < <(db_pid "$node")
        kill_now "${pids[@]}"
    done
    rm -rf "$HOME_DIR"
}

# --- setting up ----------------------------------------------------------------------------------

free_port() {
    local candidate
    while :; do
        candidate=$((20000 + RANDOM % 12000))
        [[ -e /tmp/wolfscale-ports/$candidate ]] && continue
        grep -q " $candidate\$" "$HOME_DIR/ports" 2>/dev/null && continue
        [[ -z $(ss -Hltn "sport = :$candidate") ]] && break
    done
    printf '%s\n' "$candidate"
}

choose_ports() {
    local node use
    : >"$HOME_DIR/ports"
    for node in "${NODES[@]}"; do
        for use in db grpc http feed; do
            printf '%s %s %s\n' "$node" "$use" "$(free_port)" >>"$HOME_DIR/ports"
        done
    done
}

choose_secrets() {
    local name
    mkdir -m 700 "$HOME_DIR/secret"
    for name in cluster admin app; do
        (umask 077; od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$HOME_DIR/secret/$name")
    done
}

# What the cluster needs of each MariaDB, and why: docs/operations.md.
write_db_config() {
    local node=$1 number=$2 dir=$HOME_DIR/$1
    printf 'SET GLOBAL rpl_semi_sync_master_enabled=1;\n' >"$dir/init.sql"
    cat >"$dir/my.cnf" <<CNF
[mariadbd]
datadir = $dir/db
socket = $dir/run/db.sock
pid_file = $dir/run/db.pid
log_error = $dir/run/db.log
port = $(port "$node" db)
bind_address = 127.0.0.1
user = mysql
skip_name_resolve = 1
innodb_buffer_pool_size = 64M
!includedir $dir/conf.d
CNF
    cat >"$dir/conf.d/99-wolfscale.cnf" <<CNF
[mariadbd]
server_id = $number
init_file = $dir/init.sql
log_bin = binlog
binlog_format = ROW
binlog_row_image = FULL
binlog_checksum = CRC32
sync_binlog = 1
gtid_domain_id = 0
gtid_strict_mode = ON
log_slave_updates = OFF
replicate_same_server_id = 1
init_rpl_role = SLAVE
skip_slave_start = 1
read_only = 1
event_scheduler = OFF
relay_log_recovery = ON
sync_relay_log = 0
sync_master_info = 0
sync_relay_log_info = 0
slave_net_timeout = 10
slave_parallel_threads = 4
slave_parallel_mode = optimistic
slave_max_allowed_packet = 1073741824
rpl_semi_sync_master_wait_point = AFTER_SYNC
rpl_semi_sync_master_timeout = 18446744073709551615
rpl_semi_sync_master_wait_no_slave = ON
CNF
}

# How the node starts, stops and kills its database: [db] control = "commands".
write_db_commands() {
    local dir=$HOME_DIR/$1
    cat >"$dir/db-start" <<SH
#!/bin/sh
exec setsid mariadbd --defaults-file=$dir/my.cnf "\$@" </dev/null
SH
    cat >"$dir/db-stop" <<SH
#!/bin/sh
pid=\$(cat $dir/run/db.pid 2>/dev/null) || exit 0
kill -TERM "\$pid" 2>/dev/null || true
SH
    cat >"$dir/db-kill" <<SH
#!/bin/sh
pid=\$(cat $dir/run/db.pid 2>/dev/null) || exit 0
kill -KILL "\$pid" 2>/dev/null || true
SH
    chmod 755 "$dir/db-start" "$dir/db-stop" "$dir/db-kill"
}

# An empty database with the users that the node and the application need; none of it is in its
# binlog, so that the three begin with one history.
make_database() {
    local dir=$HOME_DIR/$1
    install -d -o mysql -g mysql -m 755 "$dir/run" "$dir/db"
    # --force: a machine whose own name does not resolve is fine, no account names it.
    mariadb-install-db --no-defaults --force --user=mysql --datadir="$dir/db" --skip-test-db \
        --auth-root-authentication-method=socket >"$dir/install.log" 2>&1 ||
        fail_with_log "$node: mariadb-install-db failed" "$dir/install.log"
    mariadbd --no-defaults --bootstrap --user=mysql --datadir="$dir/db" \
        >>"$dir/install.log" 2>&1 <<SQL || fail_with_log "$node: no accounts" "$dir/install.log"
FLUSH PRIVILEGES;
CREATE USER wolfscale@localhost IDENTIFIED BY '$(password admin)';
GRANT ALL PRIVILEGES ON *.* TO wolfscale@localhost;
CREATE USER app@'%' IDENTIFIED BY '$(password app)';
GRANT ALL PRIVILEGES ON demo.* TO app@'%';
SQL
}

write_node_config() {
    local node=$1 dir=$HOME_DIR/$1 peer members=
    for peer in "${NODES[@]}"; do
        members+="    { id = \"$peer\", address = \"127.0.0.1:$(port "$peer" grpc)\" },"$'\n'
    done
    cat >"$dir/wolfscale.toml" <<TOML
[node]
id = "$node"
data_dir = "$dir/data"

[cluster]
secret_file = "$HOME_DIR/secret/cluster"
policy = "majority"
initial_members = [
$members]

[listen]
grpc = "127.0.0.1:$(port "$node" grpc)"
http = "127.0.0.1:$(port "$node" http)"

[db]
socket = "$dir/run/db.sock"
user = "wolfscale"
password_file = "$HOME_DIR/secret/admin"
capture_user = "wolfscale"
capture_password_file = "$HOME_DIR/secret/admin"
server_id = ${node#n}
feed_listen = "127.0.0.1:$(port "$node" feed)"
dropin_path = "$dir/conf.d/99-wolfscale.cnf"
init_file = "$dir/init.sql"
control = "commands"
start_command = ["$dir/db-start", "--init-rpl-role=SLAVE"]
start_default_role_command = ["$dir/db-start", "--init-rpl-role=MASTER"]
stop_command = ["$dir/db-stop"]
kill_command = ["$dir/db-kill"]
pid_file = "$dir/run/db.pid"
command_output = "$dir/run/db-commands.log"
TOML
}

set_up() {
    local node
    mkdir -p "$HOME_DIR"
    : >"$MARK"
    choose_ports
    choose_secrets
    for node in "${NODES[@]}"; do
        mkdir -p "$HOME_DIR/$node/data" "$HOME_DIR/$node/conf.d"
        write_db_config "$node" "${node#n}"
        write_db_commands "$node"
        write_node_config "$node"
        make_database "$node"
        "$CARGO_TARGET_DIR/debug/wolfscale" check --config "$HOME_DIR/$node/wolfscale.toml" \
            >>"$HOME_DIR/$node/node.log" 2>&1 ||
            fail "the configuration of $node is refused: see $HOME_DIR/$node/node.log"
    done
}

# --- watching ------------------------------------------------------------------------------------

# Who leads, as a node sees it; nothing if nobody does. The first "leader" in its status.
leader_seen_by() {
    wolfctl "$1" status --output json 2>/dev/null | tr -d ' \n' |
        sed -n 's/.*"leader":"\([a-z0-9.-]*\)".*/\1/p'
}

# Polls a command until it succeeds.
until_true() {
    local what=$1 seconds=$2 deadline=$((SECONDS + $2))
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what did not happen within $seconds s; logs: $HOME_DIR/n*/"
        sleep 0.1
    done
}

# Sets `leader` if one of the given nodes sees one among them.
find_leader() {
    local node seen
    for node in "$@"; do
        seen=$(leader_seen_by "$node")
        if [[ -n $seen && " $* " == *" $seen "* ]]; then
            leader=$seen
            return
        fi
    done
    return 1
}

writes() { sql "$leader" "$1" >/dev/null 2>&1; }
leads_and_writes() { find_leader "${@:2}" && writes "$1"; }
# A write whose answer was lost is tried again, so there may be two.
holds() { [[ $(sql "$1" "SELECT COUNT(*) > 0 FROM demo.notes WHERE text='$2'" 2>/dev/null) == 1 ]]; }
checksum() { sql "$1" 'CHECKSUM TABLE demo.notes' 2>/dev/null | cut -f2; }
all_equal() {
    local node first one
    first=$(checksum "$1") && [[ -n $first && $first != NULL ]] || return 1
    for node in "$@"; do
        one=$(checksum "$node") && [[ $one == "$first" ]] || return 1
    done
}

show_row() {
    local text=$1 node
    shift
    for node in "$@"; do
        until_true "the row on $node" "$REJOIN_SECONDS_MAX" holds "$node" "$text"
        more "$node: $(sql "$node" "SELECT CONCAT(MAX(id), ' | ', text) FROM demo.notes WHERE text='$text'")"
    done
}

others() {
    local node
    for node in "${NODES[@]}"; do [[ $node == "$1" ]] || printf '%s\n' "$node"; done
}

how_to_connect() {
    local node
    more "databases (user app, database demo; writes go to the leader):"
    for node in "${NODES[@]}"; do
        more "  MYSQL_PWD=\$(cat $HOME_DIR/secret/app) mariadb -h 127.0.0.1 -P $(port "$node" db) -u app demo   # $node"
    done
    more "the cluster: $CARGO_TARGET_DIR/debug/wolfctl --endpoint 127.0.0.1:$(port n1 grpc) --secret-file $HOME_DIR/secret/cluster list servers"
    more "metrics:     curl http://127.0.0.1:$(port n1 http)/metrics"
    more "logs:        $HOME_DIR/n*/node.log"
    more "stop it:     deploy/demo.sh stop"
}

# --- the show ------------------------------------------------------------------------------------

show_first_write() {
    say "starting three nodes; each starts its own MariaDB as follower"
    local node
    for node in "${NODES[@]}"; do start_node "$node"; done
    until_true 'a leader that takes writes' "$READY_SECONDS_MAX" \
        leads_and_writes 'CREATE DATABASE IF NOT EXISTS demo' "${NODES[@]}"
    say "the cluster is up, and $leader leads: the lowest ID that can"
    sql "$leader" 'CREATE TABLE demo.notes (id BIGINT PRIMARY KEY AUTO_INCREMENT, text VARCHAR(80))'
    sql "$leader" "INSERT INTO demo.notes (text) VALUES ('written on $leader')"
    say "committed a row on $leader by the ordinary mariadb client; it is on all three:"
    show_row "written on $leader" "${NODES[@]}"
}

show_failover() {
    local pids survivors
    old=$leader
    mapfile -t survivors < <(others "$old")
    mapfile -t pids < <(node_pids "$old"; db_pid "$old")
    say "killing $old: its node and its database, with SIGKILL (${pids[*]})"
    local killed_us=${EPOCHREALTIME/./}
    kill_now "${pids[@]}"
    until_true 'a write on the next leader' "$FAILOVER_SECONDS_MAX" \
        leads_and_writes "INSERT INTO demo.notes (text) VALUES ('written after $old died')" \
        "${survivors[@]}"
    say "$leader leads now and took a write, $(((${EPOCHREALTIME/./} - killed_us) / 1000)) ms after the kill"
    show_row "written after $old died" "${survivors[@]}"
}

show_rejoin() {
    say "starting $old again, as a service manager would; nobody repairs anything"
    start_node "$old"
    show_row "written after $old died" "$old"
    until_true 'one content on all three' "$REJOIN_SECONDS_MAX" all_equal "${NODES[@]}"
    say "$old is back. The tables are equal: checksum $(checksum "$old") on all three"
}

interrupted() {
    trap - INT TERM EXIT
    printf '\n'
    say 'interrupted: stopping and removing everything'
    remove_all
    exit 130
}

ended() {
    local code=$?
    ((code == 0)) && return
    printf 'demo: it failed. Everything is left as it is, for a look: %s\n' "$HOME_DIR" >&2
    printf '      deploy/demo.sh stop   removes it\n' >&2
}

demo() {
    [[ $(id -u) == 0 ]] || fail 'run it as root: it starts databases as the user mysql'
    say 'installing what is missing, and building'
    # shellcheck source=deploy/setup.sh
    source deploy/setup.sh
    setup_locked cargo build --quiet --workspace --bins
    if [[ -e $MARK ]]; then
        say 'removing the demo that was here before'
        remove_all
    fi
    trap interrupted INT TERM
    trap ended EXIT
    say "making three empty databases and their settings under $HOME_DIR"
    set_up
    show_first_write
    show_failover
    show_rejoin
    if [[ ${1-} == --once ]]; then
        remove_all
        say 'done; everything is removed'
    else
        say 'done; the cluster goes on running:'
        how_to_connect
    fi
}

status() {
    [[ -e $MARK ]] || fail 'the demo does not run'
    export CARGO_TARGET_DIR=${WOLFSCALE_TARGET_DIR:-/var/cache/wolfscale/target}
    local node
    for node in "${NODES[@]}"; do
        more "$node: node $(node_pids "$node" | head -n 1 | grep . || echo down), database $(db_pid "$node" | grep . || echo down)"
    done
    wolfctl n1 --endpoint "127.0.0.1:$(port n2 grpc)" list servers
    how_to_connect
}

# One demo at a time; what it leaves running does not hold the lock.
exec 8>/var/tmp/wolfscale-demo.lock
flock -n 8 || fail 'it runs already, from another terminal'

leader=
old=
case ${1-} in
'' | --once) demo "$@" ;;
status) status ;;
stop)
    remove_all
    say 'stopped; everything is removed'
    ;;
*)
    sed -n '2,/^set /{s/^# \{0,1\}//;/^set /!p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
