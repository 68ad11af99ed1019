#!/usr/bin/env bash
# Prints the output `total` of the workflow wordcount.yaml for the same text, made with standard tools.
set -euo pipefail
export LC_ALL=C

if [[ $# -ne 1 ]]; then
  echo "usage: $0 TEXT" >&2
  exit 2
fi

tr -cs '[:alpha:]' '\n' < "$1" | # each run of other bytes becomes one newline
  tr '[:upper:]' '[:lower:]' |
  sed '/^$/d' |                   # the empty line of a text that does not start with a letter
  sort |
  uniq -c |
  sed 's/^ *//' |
  sort -k1,1nr -k2,2
