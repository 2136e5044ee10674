#!/usr/bin/env bash
# Installs a later RabbitMQ for the tests, 4.0 or 4.3, beside whatever RabbitMQ this machine has.
#
# It is the package of a later Debian (4.0: trixie, 4.3: sid) in a small Debian of its own
# (debootstrap), 400 MB in a folder that the tests enter by chroot; nothing else of this machine
# changes. The folder is in the user's cache instead of `target`, so that it survives `cargo clean`
# and serves every clone. Needs root, the network, and about two minutes; once. Delete the folder
# to install it anew.
set -euo pipefail

wanted=${1:-}
case $wanted in
4.0) suite=trixie ;;
4.3) suite=sid ;;
*)
    echo "usage: tests/rabbitmq.sh 4.0|4.3"
    exit 2
    ;;
esac
folder=${XDG_CACHE_HOME:-$HOME/.cache}/worker-tests/rabbitmq-$wanted
mirror=http://deb.debian.org/debian

if [ "$(id -u)" != 0 ]; then
    echo "RabbitMQ $wanted is installed and entered by chroot: run this, and the tests, as root"
    exit 1
fi
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9 # another run may be installing it

if [ -d "$folder" ]; then
    echo "RabbitMQ $wanted is in $folder"
    exit
fi
if ! command -v debootstrap >/dev/null; then
    echo "installing debootstrap"
    apt-get install -y debootstrap >/dev/null 2>&1 || { apt-get update && apt-get install -y debootstrap; }
fi

# A folder of another name until all is there, so that half an installation is never used.
new=$folder.new
rm -rf "$new"
echo "installing Debian $suite with rabbitmq-server into $folder"
if ! debootstrap --variant=minbase --include=rabbitmq-server "$suite" "$new" "$mirror" >"$folder.log" 2>&1; then
    tail "$folder.log"
    echo "debootstrap failed, see $folder.log"
    exit 1
fi
version=$(basename "$new"/usr/lib/rabbitmq/lib/rabbitmq_server-*)
version=${version#rabbitmq_server-}
case $version in
"$wanted".*) ;;
*)
    rm -rf "$new"
    echo "Debian $suite has RabbitMQ $version now, not $wanted: the tests must learn it first"
    exit 1
    ;;
esac
touch "$new/etc/hosts" # the machine's own is mounted on it
rm -f "$new"/var/cache/apt/archives/*.deb
mv "$new" "$folder"
echo "RabbitMQ $version is in $folder"
