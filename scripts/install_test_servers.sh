#!/usr/bin/env bash
# Installs the programs that the tests start privately, each only if it is missing. Starts no service.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

missing=()

need() { # need PACKAGE COMMAND…: the package counts as missing when one of its commands is
    local package=$1
    shift
    for command in "$@"; do
        if ! command -v "$command" >/dev/null && ! compgen -G "$command" >/dev/null; then
            missing+=("$package")
            return
        fi
    done
}

need git git
need redis-server redis-server redis-cli
need mariadb-server mariadbd mariadb-install-db
need postgresql '/usr/lib/postgresql/*/bin/initdb'
need chromium chromium
need openssl openssl
need iproute2 ip

[ "${#missing[@]}" -gt 0 ] || exit 0

give_up() {
    echo "The tests need these and cannot install them here: ${missing[*]}. $1" >&2
    exit 2
}

command -v apt-get >/dev/null || give_up "Install them with this system's package manager."
if [ "$(id -u)" = 0 ]; then
    root=()
elif command -v sudo >/dev/null; then
    root=(sudo)
else
    give_up "Run scripts/install_test_servers.sh once as root."
fi

echo "Installing for the tests: ${missing[*]}"

# Debian starts a service on installation unless this file says no.
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap '"${root[@]}" rm -f "$guard"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$guard" >/dev/null
    "${root[@]}" chmod 755 "$guard"
fi

log=$(mktemp)
install() {
    "${root[@]}" apt-get update -qq &&
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${missing[@]}"
}
if ! install >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    give_up "apt-get failed; its last lines stand above."
fi
rm -f "$log"
