# shellcheck shell=bash
# What the benchmark scripts share; sourced by them, from the root of a clone.

# Messages for people go to standard error.
say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }
usage_error() { say "error: $*; --help tells what there is"; exit 2; }

# The ssh that reaches other hosts, with its options: ATLAS_SSH="ssh -i key -l bench".
read -r -a SSH <<< "${ATLAS_SSH:-ssh -o BatchMode=yes}"
# Where replicas listen on other hosts, the first of as many ports as there are replicas.
PORT="${ATLAS_PORT:-7450}"

RUNS=3
SECONDS_EACH=20
OUT=""
HOSTS=()
EXTRA=()

# Prints the comment block at the top of the script that was called.
show_help() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; }

parse_arguments() {
    while (($#)); do
        case "$1" in
            --local) HOSTS=() ;;
            --hosts) [[ -n "${2:-}" ]] || usage_error "--hosts needs a list"; IFS=, read -r -a HOSTS <<< "$2"; shift ;;
            --runs) [[ "${2:-}" =~ ^[1-7]$ ]] || usage_error "--runs is 1 to 7"; RUNS="$2"; shift ;;
            --seconds) [[ "${2:-}" =~ ^[1-9][0-9]{0,4}$ ]] || usage_error "--seconds is a whole number"; SECONDS_EACH="$2"; shift ;;
            --out) [[ -n "${2:-}" ]] || usage_error "--out needs a directory"; OUT="$2"; shift ;;
            -h | --help) show_help; exit 0 ;;
            --) shift; EXTRA=("$@"); break ;;
            *) usage_error "unknown argument $1" ;;
        esac
        shift
    done
    ((${#HOSTS[@]} == 0 || ${#HOSTS[@]} >= 4)) || usage_error "--hosts needs four hosts or more (one may stand there several times)"
}

# Sets ATLAS to an absolute path: the one in the environment, or a release build of this clone.
find_atlas() {
    if [[ -z "${ATLAS:-}" ]]; then
        cargo build --release --locked >&2
        ATLAS="target/release/atlas"
    fi
    ATLAS="$(realpath -- "$ATLAS")"
    [[ -x "$ATLAS" ]] || fail "$ATLAS is no program"
}

# Makes the directory of results; NAME says what was measured.
make_out() {
    local name="$1"
    OUT="${OUT:-results/$name-$(date -u +%Y%m%dT%H%M%SZ)}"
    [[ ! -e "$OUT" ]] || fail "$OUT is there already; name another with --out"
    mkdir -p "$OUT"
}

# Where the benches make their directories: on the disk of the results, unless that is memory.
bench_dir() { (cd "$OUT" && pwd); }

describe_host() {
    date -u +"%Y-%m-%dT%H:%M:%SZ"
    uname -srm
    grep -m1 'model name' /proc/cpuinfo || true
    printf 'cores: %s\n' "$(nproc)"
    grep -m1 MemTotal /proc/meminfo || true
}

# Writes what the numbers depend on beside them: this host, the commit, and each other host.
record_environment() {
    local commit dirty="" host status index=0
    commit="$(git rev-parse HEAD 2> /dev/null || echo unknown)"
    if [[ -n "$(git status --porcelain --untracked-files=no 2> /dev/null || true)" ]]; then dirty=" with changes"; fi
    {
        printf 'commit: %s%s\n' "$commit" "$dirty"
        "$ATLAS" --version
        sha256sum "$ATLAS" | cut -d' ' -f1 | sed 's/^/binary: /'
        printf 'command: %s\n' "$COMMAND"
        describe_host
    } > "$OUT/environment.txt"
    # Warnings are exit code 10, critical findings 11: both belong beside the numbers, and neither stops a measurement.
    status=0
    "$ATLAS" host check --json --data "$(bench_dir)" > "$OUT/host-check.jsonl" 2> "$OUT/host-check.txt" || status=$?
    if ((status != 0)); then say "$(sed 's/^error: //' "$OUT/host-check.txt") (see $OUT/host-check.jsonl)"; fi
    for host in "${HOSTS[@]}"; do
        {
            declare -f describe_host
            echo describe_host
        } | "${SSH[@]}" "$host" bash > "$OUT/environment-replica-$index.txt" || fail "cannot reach $host by ${SSH[*]}"
        index=$((index + 1))
    done
}

# --- A cluster on other hosts -------------------------------------------------------------------------------------------------

REMOTE_DIRS=()
REMOTE_PIDS=()

# Ends the replicas that were started, and removes the directories that were made, and nothing else.
stop_remote() {
    local index
    for index in "${!REMOTE_DIRS[@]}"; do
        "${SSH[@]}" "${HOSTS[$index]}" cat "${REMOTE_DIRS[$index]}/replica.log" > "$OUT/replica-$index.log" 2> /dev/null || true
        "${SSH[@]}" "${HOSTS[$index]}" bash -s -- "${REMOTE_PIDS[$index]:-}" "${REMOTE_DIRS[$index]}" << 'REMOTE' || true
pid="$1" dir="$2"
if [[ -n "$pid" ]] && [[ "$(readlink "/proc/$pid/exe")" == "$dir/atlas"* ]]; then
    kill "$pid"
    for _ in {1..100}; do [[ -e "/proc/$pid" ]] || break; sleep 0.1; done
fi
[[ "$dir" == */atlas-bench-* ]] && rm -rf -- "$dir"
REMOTE
    done
}

# Starts a replica on each of HOSTS from files made here; CLUSTER and IDENTITY name what reaches them.
start_remote() {
    local n="${#HOSTS[@]}" index host address made dir pid
    made="$OUT/cluster"
    "$ATLAS" init "$made" --replicas "$n" --base-port "$PORT" > "$OUT/init.txt"
    for index in "${!HOSTS[@]}"; do
        # user@host: the address is that of the host.
        address="${HOSTS[$index]##*@}:$((PORT + index))"
        sed -i "s|\"127\.0\.0\.1:$((PORT + index))\"|\"$address\"|" "$made/cluster.toml"
    done
    trap stop_remote EXIT
    for index in "${!HOSTS[@]}"; do
        host="${HOSTS[$index]}"
        # Single quotes are meant: the other host's shell is to read this.
        # shellcheck disable=SC2016
        dir="$("${SSH[@]}" "$host" 'mktemp -d "${ATLAS_REMOTE:-/var/tmp}/atlas-bench-XXXXXX"')" || fail "cannot make a directory on $host"
        REMOTE_DIRS[index]="$dir"
        tar -C "$made" -c cluster.toml "replica-$index" | "${SSH[@]}" "$host" tar -C "$dir" -x
        "${SSH[@]}" "$host" "cat > '$dir/atlas' && chmod 755 '$dir/atlas'" < "$ATLAS"
        "${SSH[@]}" "$host" "'$dir/atlas' host check --json --config '$dir/replica-$index/config.toml'" \
            > "$OUT/host-check-replica-$index.jsonl" 2> /dev/null || true
        pid="$("${SSH[@]}" "$host" "cd '$dir' && { ulimit -l unlimited 2> /dev/null || true; } && { nohup ./atlas replica --config \
            replica-$index/config.toml > replica.log 2>&1 < /dev/null & echo \$!; }")" || fail "cannot start a replica on $host"
        REMOTE_PIDS[index]="$pid"
    done
    CLUSTER="$made/cluster.toml" IDENTITY="$made/clients/operator.key"
    local tries
    for tries in {1..30}; do
        if "$ATLAS" status --cluster "$CLUSTER" --identity "$IDENTITY" --timeout 2 > "$OUT/status.txt" 2>&1; then return; fi
        sleep 1
    done
    cat "$OUT/status.txt" >&2
    fail "no quorum after $tries tries; what the replicas say will be in $OUT/replica-*.log"
}

# The arguments that say what is measured: a cluster of the bench's own, or the one that runs.
target_arguments() {
    if ((${#HOSTS[@]})); then
        printf '%s\n' --cluster "$CLUSTER" --identity "$IDENTITY"
    else
        printf '%s\n' --dir "$(bench_dir)"
    fi
}

# --- Results ------------------------------------------------------------------------------------------------------------------

# One log of several: HDR histograms add up, percentiles do not.
merge_logs() {
    local into="$1" log
    shift
    { cat -- "$1"; for log in "${@:2}"; do grep -v -e '^#' -e '^"' -- "$log"; done; } > "$into"
}

# Runs `atlas bench WHAT` RUNS times, merges, draws, and prints the table.
measure() {
    local what="$1" run logs=() names=() target
    mapfile -t target < <(target_arguments)
    for ((run = 1; run <= RUNS; run++)); do
        say "run $run of $RUNS: $SECONDS_EACH s"
        "$ATLAS" bench "$what" --seconds "$SECONDS_EACH" --hdr "$OUT/run-$run.hlog" --json "${target[@]}" "${EXTRA[@]}" >> "$OUT/runs.jsonl"
        logs+=("$OUT/run-$run.hlog") names+=(--name "run $run")
    done
    merge_logs "$OUT/merged.hlog" "${logs[@]}"
    "$ATLAS" plot "$OUT/merged.hlog" "${logs[@]}" --name "all runs" "${names[@]}" --title "atlas bench $what" -o "$OUT/runs.svg" |
        tee "$OUT/runs.txt"
    say "in $OUT: runs.svg, the logs, environment.txt, host-check.jsonl"
}
