#!/usr/bin/env bash
# Prints what the workflow access-log.yaml writes to its output `top` for the same logs: the same programs in a shell pipe.
# No `pipefail`: when `head` has seen enough, the second `sort` ends by SIGPIPE, and that is no failure.
set -eu
export LC_ALL=C

if [[ $# -eq 0 ]]; then
  echo "usage: $0 LOG.gz…" >&2
  exit 2
fi

gzip -dc -- "$@" |
  awk '/" 404 / { print $7 }' |
  sort |
  uniq -c |
  sort -k1,1nr -k2 |
  head -n "${TOP:-10}"
