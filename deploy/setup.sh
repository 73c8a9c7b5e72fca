#!/usr/bin/env bash
# Installs what building and testing WolfScale needs on Debian 12, if it is missing. Source it: it
# also puts cargo into PATH and exports CARGO_TARGET_DIR. It asks nothing, and does nothing twice.
#
#   WOLFSCALE_TARGET_DIR   where build results go (default /var/cache/wolfscale/target)
set -euo pipefail
export HOME=${HOME:-/root}

readonly SETUP_PACKAGES=(
    gcc libc6-dev mariadb-server mariadb-client mariadb-backup sysbench strace iproute2 nftables
    e2fsprogs util-linux procps curl ca-certificates git
)
readonly SETUP_RUST=1.95.0
# Debian 12's own packages of a Rust that is new enough, from its security updates.
readonly SETUP_RUST_PACKAGES=(cargo-web rustc-web rust-web-clippy rustfmt-web)
readonly SETUP_TARGET_MIB_MAX=12288
readonly SETUP_POLICY=/usr/sbin/policy-rc.d

setup_say() { printf '==> %s\n' "$*"; }
setup_fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

setup_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Installs packages while a policy forbids their services to start, and restores the policy that
# was there before. A service that runs already is left alone by dpkg's own rules.
setup_apt() (
    local kept=
    # shellcheck disable=SC2317  # the trap calls it
    restore() {
        rm -f "$SETUP_POLICY"
        if [[ -n $kept ]]; then mv "$kept" "$SETUP_POLICY"; fi
    }
    trap restore EXIT
    if [[ -e $SETUP_POLICY || -L $SETUP_POLICY ]]; then
        kept=$SETUP_POLICY.wolfscale.$$
        mv "$SETUP_POLICY" "$kept"
    fi
    printf '#!/bin/sh\nexit 101\n' >"$SETUP_POLICY"
    chmod 755 "$SETUP_POLICY"
    export DEBIAN_FRONTEND=noninteractive
    setup_quietly apt-get -qq -o Dpkg::Use-Pty=0 update
    setup_quietly apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends install "$@"
)

# Runs a command and shows what it said only if it failed.
setup_quietly() {
    local said code=0
    said=$("$@" 2>&1) || code=$?
    if ((code != 0)); then
        printf '%s\n' "$said" >&2
        setup_fail "\`$*\` failed"
    fi
}

setup_packages() {
    local package missing=()
    for package in "${SETUP_PACKAGES[@]}"; do
        setup_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 ]] || setup_fail "run it as root once, to install: ${missing[*]}"
    command -v apt-get >/dev/null || setup_fail "no apt-get here; install: ${missing[*]}"
    setup_say "installing ${missing[*]}"
    setup_apt "${missing[@]}"
    # The servers of the tests and the demo are their own: the packaged one stays off, unless it
    # was on this machine before.
    if [[ " ${missing[*]} " == *" mariadb-server "* ]] && command -v systemctl >/dev/null; then
        systemctl --quiet disable mariadb.service 2>/dev/null || true
    fi
}

# Whether `cargo` is there, new enough, and has what the tests need.
setup_rust_suits() {
    local version
    version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
    [[ -n $version ]] || return 1
    [[ $(printf '%s\n' "$SETUP_RUST" "${version%%-*}" | sort -V | head -n 1) == "$SETUP_RUST" ]] &&
        cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1
}

# Whether the distribution has a Rust that is new enough, and installing it replaces no other one.
setup_rust_packaged() {
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 1
    ! setup_installed cargo && ! setup_installed rustc || return 1
    apt-get -qq -o Dpkg::Use-Pty=0 update >/dev/null || return 1
    local candidate
    candidate=$(apt-cache policy "${SETUP_RUST_PACKAGES[0]}" 2>/dev/null |
        sed -n 's/^ *Candidate: //p')
    [[ -n $candidate && $candidate != '(none)' ]] &&
        dpkg --compare-versions "$candidate" ge "$SETUP_RUST"
}

setup_rust() {
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    export PATH
    ! setup_rust_suits || return 0
    if ! command -v rustup >/dev/null && setup_rust_packaged; then
        setup_say "installing Rust from Debian's packages: ${SETUP_RUST_PACKAGES[*]}"
        setup_apt "${SETUP_RUST_PACKAGES[@]}"
        hash -r
        ! setup_rust_suits || return 0
    fi
    local wanted=(--profile minimal --component clippy --component rustfmt)
    if command -v rustup >/dev/null; then
        setup_say "installing Rust $SETUP_RUST by rustup"
        rustup --quiet toolchain install "$SETUP_RUST" --no-self-update "${wanted[@]}" >/dev/null
        export RUSTUP_TOOLCHAIN=$SETUP_RUST
    else
        setup_say "installing Rust $SETUP_RUST by rustup's installer from https://sh.rustup.rs"
        # An older cargo of the distribution may stay: the new one goes first in PATH.
        curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs |
            RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- -y -q --no-modify-path \
                --default-toolchain "$SETUP_RUST" "${wanted[@]}" >/dev/null
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    setup_rust_suits || setup_fail "cargo $SETUP_RUST or newer, with clippy and rustfmt, is needed"
}

setup_target_mib() { du -sm "$CARGO_TARGET_DIR" 2>/dev/null | cut -f1; }

# Keeps build results from growing without end: first what is only for speed, then our own crates'
# old results, then all. Call it while holding the lock.
setup_trim_target() {
    (($(setup_target_mib) > SETUP_TARGET_MIB_MAX)) || return 0
    setup_say "build results exceed $SETUP_TARGET_MIB_MAX MiB: removing old ones"
    rm -rf "${CARGO_TARGET_DIR:?}"/*/incremental
    (($(setup_target_mib) > SETUP_TARGET_MIB_MAX)) || return 0
    find "$CARGO_TARGET_DIR" -path '*/deps/*' \( -name '*wolf*' -o -name 'store-*' \
        -o -name 'cluster-*' -o -name 'db-*' -o -name 'edge-*' -o -name 'e2e-*' \) -delete
    (($(setup_target_mib) > SETUP_TARGET_MIB_MAX)) || return 0
    find "$CARGO_TARGET_DIR" -mindepth 1 -maxdepth 1 ! -name '.lock' -exec rm -rf {} +
}

# Runs a command alone on the target directory; the lock is not passed on to what it starts.
setup_locked() {
    (
        flock 9
        setup_trim_target
        "$@" 9>&-
    ) 9>"$CARGO_TARGET_DIR/.lock"
}

setup_packages
setup_rust
export CARGO_TARGET_DIR=${WOLFSCALE_TARGET_DIR:-/var/cache/wolfscale/target}
mkdir -p "$CARGO_TARGET_DIR"
