# shellcheck shell=bash
# The common parts of the scripts: source this, it is nothing to run. It goes to the root of the project.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Where cargo puts what it builds.
# shellcheck disable=SC2034 # for the scripts that source this
target=${CARGO_TARGET_DIR:-target}

# Where cargo keeps what it fetches and installs.
cargo_home=${CARGO_HOME:-~/.cargo}

# Says in one line what comes now.
say() {
  printf '==> %s\n' "$*"
}

# Says what is missing or has failed, and ends.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

has() {
  command -v "$1" > /dev/null
}

# need_tools COMMAND:PACKAGE… installs the Debian packages of those commands that are missing.
need_tools() {
  local pair packages=()
  for pair; do
    has "${pair%%:*}" || packages+=("${pair#*:}")
  done
  install_packages "${packages[@]}"
}

# Installs what rustc needs to link a program: a C compiler, and the C library's start files.
need_linker() {
  local start
  start=$(cc -print-file-name=crt1.o 2> /dev/null) || start=
  # A compiler that does not find the file gives its bare name back.
  [[ $start == */* ]] || install_packages gcc libc6-dev
}

install_packages() {
  [[ $# -gt 0 ]] || return 0
  has apt-get || die "missing: the packages $*, and there is no apt-get here; install them, then run $0 again"
  local as_root=()
  if [[ $EUID -ne 0 ]]; then
    has sudo || die "missing: the packages $*; without sudo, run $0 as root, or have them installed"
    as_root=(sudo)
  fi
  say "installing the packages $*"
  "${as_root[@]}" apt-get -qq update ||
    die "the list of packages cannot be fetched (see above); install $* by hand, then run $0 again"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" > /dev/null ||
    die "the packages $* cannot be installed (see above); install them by hand, then run $0 again"
}

# need_rust [COMPONENT…] finds cargo, checks its version, and adds those components of the toolchain that are missing.
need_rust() {
  has cargo || PATH=$PATH:$cargo_home/bin
  has cargo || die "missing: cargo; install Rust from https://rustup.rs, then run $0 again"

  local wanted found component
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(cargo --version | cut -d ' ' -f 2)
  [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] ||
    die "Rust is $found, and at least $wanted is needed: run 'rustup update'"

  for component; do
    cargo "${component#rust}" --version &> /dev/null && continue
    has rustup || die "missing: $component; install it for the Rust $found that is here, then run $0 again"
    say "installing $component"
    rustup --quiet component add "$component" || die "rustup cannot add $component (see above)"
  done
}
