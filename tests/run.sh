#!/usr/bin/env bash
# Installs what the tests need (and says so), builds, and runs every check and test.
# Ends with "N passed, M failed"; the exit status is 0 only when M is 0.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<END
usage: tests/run.sh [--rabbitmq VERSION]

  --rabbitmq 3.10   the Debian package of this machine (unless TEST_RABBITMQ_VERSION says otherwise)
  --rabbitmq 4.0    installs RabbitMQ 4.0 into a folder, and runs everything against it (as root)
  --rabbitmq 4.3    the same with 4.3
  --help            says this
END
}

rabbitmq=${TEST_RABBITMQ_VERSION:-3.10}
while [ $# -gt 0 ]; do
    case $1 in
    --rabbitmq)
        rabbitmq=${2:-}
        shift
        ;;
    --rabbitmq=*) rabbitmq=${1#*=} ;;
    --help | -h)
        usage
        exit
        ;;
    *)
        echo "unknown option: $1"
        usage
        exit 2
        ;;
    esac
    shift
done
case $rabbitmq in
3.10 | 4.0 | 4.3) export TEST_RABBITMQ_VERSION=$rabbitmq ;;
*)
    echo "unknown version of RabbitMQ: '$rabbitmq'; use 3.10, 4.0 or 4.3"
    usage
    exit 2
    ;;
esac

say() { printf '\n== %s\n' "$*"; }

# --- what the tests need ------------------------------------------------------

install() { # COMMAND PACKAGE: installs PACKAGE where COMMAND is missing
    command -v "$1" >/dev/null && return
    say "installing $2 (for $1)"
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get install -y "$2" >/dev/null 2>&1 ||
        { "${root[@]}" apt-get update && "${root[@]}" apt-get install -y "$2"; } ||
        { echo "cannot install $2: install it by hand, then run this again"; exit 1; }
}

if ! command -v cargo >/dev/null; then
    echo "Rust is missing: install it from https://rustup.rs, then run this again"
    exit 1
fi
install cc gcc          # SQLite is compiled from C
install systemd-analyze systemd # checks the unit in deploy/
install script bsdutils # a pseudo-terminal, for what the commands print on one
# The tests start nodes of their own, on other ports and with other folders: it does not matter to them
# whether the server that the package brings runs as a service of this machine.
case $rabbitmq in
3.10) install /usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server ;;
4.0 | 4.3)
    say "RabbitMQ $rabbitmq"
    tests/rabbitmq.sh "$rabbitmq" || exit 1
    ;;
esac
install /usr/bin/python3 python3
# Clients of another make are in an environment that the tests make, with the Python of the machine and not of PATH.
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || install "python3 -m venv" python3-venv
for component in rustfmt clippy; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 || { say "installing $component"; rustup component add "$component" || exit 1; }
done

# What looks through the tree of crates. Built once, without optimisation: 80 s of a processor.
deny_version=0.20.2
deny=${XDG_CACHE_HOME:-$HOME/.cache}/worker-tests/cargo-deny-$deny_version
if [ ! -x "$deny/bin/cargo-deny" ]; then
    say "installing cargo-deny $deny_version into $deny"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --version "$deny_version" --locked --debug --root "$deny" || exit 1
fi

# --- the checks ---------------------------------------------------------------

passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

check() { # NAME COMMAND…: one check that passes or fails as a whole
    say "$1"
    if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi
}

tests() { # NAME COMMAND…: counts the tests that cargo runs
    say "$1"
    "${@:2}" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]} counts
    counts=$(awk '/^test result:/ { passed += $4; failed += $6 } END { print passed + 0, failed + 0 }' "$log")
    passed=$((passed + ${counts% *}))
    failed=$((failed + ${counts#* }))
    # A test binary that does not build or dies has no result line.
    if [ "$status" != 0 ] && [ "${counts#* }" = 0 ]; then failed=$((failed + 1)); echo "FAILED: $1"; fi
}

export CARGO_TERM_COLOR=never
check "format" cargo fmt --all --check
check "lints" cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
for features in "" sqlite rabbitmq cli admin testing simulation fuzzing; do
    check "lints, worker-core with only '$features'" \
        cargo clippy -p worker-core --all-targets --no-default-features --features "$features" --locked -- -D warnings
done
check "licences, bans and sources of all crates" "$deny/bin/cargo-deny" --all-features check bans licenses sources
# The database of advisories is a repository on GitHub.
if fetched=$(GIT_TERMINAL_PROMPT=0 timeout 60 "$deny/bin/cargo-deny" fetch db 2>&1); then
    check "advisories about all crates" "$deny/bin/cargo-deny" --all-features check advisories
else
    say "NOT CHECKED: advisories about crates; their database cannot be fetched: $(tail -n 1 <<<"$fetched")"
fi
check "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --locked
check "the example, as the README runs it" cargo build --release -p example-app --locked
tests "unit, property, macro, conformance and system tests" \
    cargo test --workspace --all-features --all-targets --no-fail-fast --locked
tests "torture, each alone: some minutes of everything that can go wrong; and whether the benchmark runs" \
    cargo test --workspace --all-features --test it --locked -- --ignored --test-threads 1 torture:: benchmark::
tests "examples in the documentation" cargo test --workspace --all-features --doc --no-fail-fast --locked

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
