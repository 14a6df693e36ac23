#!/bin/sh
# Print the Python to build .venv with, or say in one line what is missing. If $PYTHON is set, only
# that one is tried.
set -eu

fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'

for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
  if "$candidate" -c "$fits" 2>/dev/null; then
    if ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "error: $candidate has no venv module." \
        "On Debian and Ubuntu: apt-get install python3-venv" >&2
      exit 1
    fi
    command -v "$candidate"
    exit 0
  fi
done

echo "error: usageledger needs Python 3.11 to 3.14, but found none" \
  "(tried ${PYTHON:-those on the PATH}). Name one: make setup PYTHON=/path/to/python3.12" >&2
exit 1
