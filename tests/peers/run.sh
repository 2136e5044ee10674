#!/usr/bin/env bash
# Measures our framework beside other job frameworks: installs what they need into a cache, builds the comparison, and
# starts it with this script's arguments. `tests/peers/run.sh --help` says which; README.md here says what is measured.
set -euo pipefail
cd "$(dirname "$0")"

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export WORKER_PEERS_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/worker-peers
PYTHON=${PYTHON:-python3.11}

# A peer that cannot be installed is one that fails: the others are measured all the same.
install_python() {
    local wanted=$WORKER_PEERS_CACHE/venv/requirements.txt
    cmp -s python/requirements.txt "$wanted" && return
    echo "installing Celery and Dramatiq (PyPI, python/requirements.txt) into $WORKER_PEERS_CACHE/venv" >&2
    rm -rf "$WORKER_PEERS_CACHE/venv"
    "$PYTHON" -m venv "$WORKER_PEERS_CACHE/venv" &&
        "$WORKER_PEERS_CACHE/venv/bin/pip" install --quiet --disable-pip-version-check \
            --requirement python/requirements.txt >&2 &&
        cp python/requirements.txt "$wanted"
}

install_node() {
    local folder=$WORKER_PEERS_CACHE/node
    cmp -s node/package-lock.json "$folder/package-lock.json" && [ -d "$folder/node_modules" ] && return
    echo "installing BullMQ (npm, node/package-lock.json) into $folder" >&2
    mkdir -p "$folder"
    cp node/package.json node/package-lock.json "$folder/"
    npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --silent >&2
}

case " $* " in
*" --help "* | *" -h "* | *" --list "*) ;; # Needs none of them.
*)
    install_python || echo "Celery and Dramatiq cannot be installed: $PYTHON and PyPI are needed" >&2
    install_node || echo "BullMQ cannot be installed: npm and its registry are needed" >&2
    ;;
esac

# All at once, since each choice of packages would build what they share with other features. What does not compile is
# missing afterwards.
build() {
    cargo build --release --locked --quiet --workspace --manifest-path "$1" --keep-going
}

echo "building into $CARGO_TARGET_DIR (the first time takes many minutes)" >&2
rm -f "$CARGO_TARGET_DIR"/release/peer-*
case " $* " in
*" --help "* | *" -h "* | *" --list "*)
    cargo build --release --locked --quiet --package peer-compare
    exec "$CARGO_TARGET_DIR/release/peer-compare" "$@"
    ;;
esac
build Cargo.toml || [ -x "$CARGO_TARGET_DIR/release/peer-compare" ]
build sqlite/Cargo.toml || echo "the peers on SQLite, or one of them, do not compile" >&2
exec "$CARGO_TARGET_DIR/release/peer-compare" "$@"
