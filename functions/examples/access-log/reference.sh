#!/usr/bin/env bash
# Prints the output `top` of the workflow access-log.yaml for the same logs, made by the same programs in a shell pipe.
# No `pipefail`: `head` ends early, so the second `sort` ends by SIGPIPE, which is not a failure.
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
