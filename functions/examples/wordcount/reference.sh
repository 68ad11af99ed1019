#!/usr/bin/env bash
# Prints what the workflow wordcount.yaml writes to its output `total` for the same text, made with standard tools.
set -euo pipefail
export LC_ALL=C

if [[ $# -ne 1 ]]; then
  echo "usage: $0 TEXT" >&2
  exit 2
fi

tr -cs '[:alpha:]' '\n' < "$1" | # each run of other bytes becomes one newline
  tr '[:upper:]' '[:lower:]' |
  sed '/^$/d' |                   # what a text that does not start with a letter begins with
  sort |
  uniq -c |
  sed 's/^ *//' |
  sort -k1,1nr -k2,2
