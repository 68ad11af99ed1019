# shellcheck shell=bash
# Functions shared by the scripts. Source this file; it changes to the root of the project.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The target directory of cargo.
# shellcheck disable=SC2034 # for the scripts that source this
target=${CARGO_TARGET_DIR:-target}

# The directory of cargo's downloads and installed programs.
cargo_home=${CARGO_HOME:-~/.cargo}

# Announces the next step in one line.
say() {
  printf '==> %s\n' "$*"
}

# Prints an error and exits.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

has() {
  command -v "$1" > /dev/null
}

# need_tools COMMAND:PACKAGE… installs the Debian package of each command that is missing.
need_tools() {
  local pair packages=()
  for pair; do
    has "${pair%%:*}" || packages+=("${pair#*:}")
  done
  install_packages "${packages[@]}"
}

# Installs what rustc needs to link a program: a C compiler and the start files of the C library.
need_linker() {
  local start
  start=$(cc -print-file-name=crt1.o 2> /dev/null) || start=
  # A compiler that does not find the file prints its bare name.
  [[ $start == */* ]] || install_packages gcc libc6-dev
}

# Installs the build dependencies of dflow-verbs: the headers of verbs, and a libclang with which rdma-sys can read them.
need_verbs() {
  has pkg-config || install_packages pkg-config
  pkg-config --exists libibverbs librdmacm || install_packages libibverbs-dev librdmacm-dev
  need_libclang
}

# The bindgen of rdma-sys generates wrong bindings with libclang 16 and newer. Sets LIBCLANG_PATH only if the newest
# installed version is unsuitable: a changed variable would make a plain 'cargo build' outside the scripts rebuild everything.
need_libclang() {
  local version newest
  [[ -z ${LIBCLANG_PATH:-} ]] || return 0
  newest=$(printf '%s\n' /usr/lib/llvm-*/lib/libclang-*.so* | sed -n 's/.*\/libclang-\([0-9]*\)\..*/\1/p' | sort -n | tail -n 1)
  [[ ! $newest || $newest -gt 15 ]] || return 0
  find_libclang && return
  for version in 14 15; do
    if knows_package "libclang-$version-dev"; then
      install_packages "libclang-$version-dev"
      [[ ! $newest ]] || find_libclang
      return
    fi
  done
  venv_libclang
}

# Exports the directory of a suitable libclang.
find_libclang() {
  local version
  for version in 15 14 13 12 11; do
    if compgen -G "/usr/lib/llvm-$version/lib/libclang-$version*.so*" > /dev/null; then
      export LIBCLANG_PATH=/usr/lib/llvm-$version/lib
      return
    fi
  done
  return 1
}

# Installs the libclang of a Python package, for distributions without a suitable one. It comes without headers, so the
# headers of the C compiler are used.
venv_libclang() {
  local folder
  folder=$(realpath -m "$target/libclang")
  if ! compgen -G "$folder/lib/python*/site-packages/clang/native/libclang.so" > /dev/null; then
    say "installing libclang 14 from PyPI into $folder"
    python3 -m venv "$folder" 2> /dev/null || {
      install_packages python3-venv
      python3 -m venv --clear "$folder"
    }
    "$folder/bin/pip" --quiet install libclang==14.0.6 ||
      die "no libclang from 11 to 15 is available; install one and set LIBCLANG_PATH to its directory, then run $0 again"
  fi
  LIBCLANG_PATH=$(dirname "$(compgen -G "$folder/lib/python*/site-packages/clang/native/libclang.so")")
  BINDGEN_EXTRA_CLANG_ARGS=-I$(cc -print-file-name=include)
  export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS
}

# The oldest Python that the package in ffi/python supports.
oldest_python=3.11

# Checks that there is a Python that is new enough, with venv.
need_python() {
  has python3 || install_packages python3
  python3 -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$oldest_python'.split('.'))))" ||
    die "$(python3 --version) is too old, at least $oldest_python is required: put a newer python3 into PATH"
  python3 -c 'import ensurepip, venv' 2> /dev/null || install_packages python3-venv
}

# need_venv FOLDER PACKAGE… makes a virtual environment with exactly these packages, unless it has them already.
need_venv() {
  local folder=$1
  shift
  [[ -f $folder/packages && $(< "$folder/packages") == "$*" ]] && return
  say "installing $* from PyPI into $folder"
  python3 -m venv --clear "$folder" && "$folder/bin/pip" --quiet --disable-pip-version-check install "$@" ||
    die "the packages $* cannot be installed into $folder (see above)"
  printf '%s\n' "$*" > "$folder/packages"
}

# Whether the distribution has a package of this name.
knows_package() {
  has apt-cache || return 1
  # A fresh container has no package lists yet.
  apt-cache show bash &> /dev/null || as_root apt-get -qq update || return 1
  apt-cache show "$1" &> /dev/null
}

install_packages() {
  [[ $# -gt 0 ]] || return 0
  has apt-get || die "the packages $* are missing, and there is no apt-get; install them, then run $0 again"
  [[ $EUID -eq 0 ]] || has sudo ||
    die "the packages $* are missing, and there is no sudo; run $0 as root, or have them installed"
  say "installing the packages $*"
  as_root apt-get -qq update ||
    die "the package lists cannot be updated (see above); install $* by hand, then run $0 again"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" > /dev/null ||
    die "the packages $* cannot be installed (see above); install them by hand, then run $0 again"
}

as_root() {
  if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

# need_rust [COMPONENT…] finds cargo, checks its version, and installs missing components of the toolchain.
need_rust() {
  has cargo || PATH=$PATH:$cargo_home/bin
  has cargo || die "cargo is missing; install Rust from https://rustup.rs, then run $0 again"

  local wanted found component
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(cargo --version | cut -d ' ' -f 2)
  [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] ||
    die "Rust $found is too old, at least $wanted is required: run 'rustup update'"

  for component; do
    cargo "${component#rust}" --version &> /dev/null && continue
    has rustup || die "$component is missing; install it for Rust $found, then run $0 again"
    say "installing $component"
    rustup --quiet component add "$component" || die "rustup cannot add $component (see above)"
  done
}
