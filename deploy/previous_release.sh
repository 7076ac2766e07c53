#!/usr/bin/env bash
# Builds the wheel of an earlier release from its commit, and installs it, without torch, into an environment of its own.
# `make test-upgrade` then runs its roles against this release's. Prints the environment's folder. Safe to run again.
#
#   deploy/previous_release.sh [COMMIT] [FOLDER]
#
# 27707786 is release 0.1.0 as it was used last: the commit before its modules moved into rooms.
set -euo pipefail
commit=${1:-27707786}
venv=${2:-out/previous/$commit}
cd "$(dirname "$0")/.."

say() { printf '%s\n' "previous release: $*" >&2; }

if [ -e "$venv/.ready" ]; then
  printf '%s\n' "$venv"
  exit
fi
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
  say "commit $commit is not in this clone: git fetch --unshallow, and run again"
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "building the wheel of $commit"
git archive "$commit" | tar -x -C "$work"
.venv/bin/pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w "$work/wheels" "$work"
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
say "installing it into $venv"
"$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt "$work"/wheels/fedmq-*.whl
git rev-parse "$commit" > "$venv/.ready"
printf '%s\n' "$venv"
