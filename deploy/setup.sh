#!/usr/bin/env bash
# Sets up one machine for development and the demo: .venv with pinned packages, and Mosquitto. Safe to run again.
set -euo pipefail
venv=${1:-.venv}
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*"; }

# As root directly, otherwise through sudo when it needs no password or a person is there to type it.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then sudo "$@"; else return 1; fi
}

apt_install() {
  command -v apt-get >/dev/null || return 1
  say "installing $* with apt"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null || return 1
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

find_mosquitto() { PATH=$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin command -v mosquitto >/dev/null; }

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  say "Python 3.11 or newer is needed. Install it, or name one: PYTHON=python3.12 make setup" >&2
  exit 1
fi

if [ ! -x "$venv/bin/pip" ]; then
  say "creating $venv"
  if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    apt_install python3-venv || { say "python3 -m venv does not work: install the package python3-venv and run again" >&2; exit 1; }
    "$python" -m venv "$venv"
  fi
fi

say "installing pinned packages (the first time this takes a minute or two)"
# Each file is compared with its hash. Not torch's: see deploy/hashes.txt. A build of the system's own vendor, or one that
# is compiled here, has another hash: HASHES=0 takes the same releases without looking at the bytes.
if [ "${HASHES:-1}" = 1 ]; then
  if ! "$venv/bin/pip" install -q --disable-pip-version-check --require-hashes --no-deps -r deploy/hashes.txt; then
    say "a package could not be had with the bytes that deploy/hashes.txt names. Where this platform has builds of its" >&2
    say "own (such as 32-bit ARM), and you trust their source: HASHES=0 make setup" >&2
    exit 1
  fi
fi
# hatchling and editables first: the editable install below then needs no build environment of its own.
"$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt hatchling editables
# One call, so that torch and torchvision are resolved together.
"$venv/bin/pip" install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[torch,demo,plot,tensorboard,onnx,dev]'

if ! find_mosquitto; then
  if ! { apt_install mosquitto && find_mosquitto; }; then
    cat >&2 <<'T'
setup: Mosquitto, the MQTT broker, is missing and could not be installed from here. Install it, then run again:
  Debian, Ubuntu, Raspberry Pi OS   sudo apt-get install mosquitto
  macOS                             brew install mosquitto
  Windows                           winget install EclipseFoundation.Mosquitto   (and add its folder to PATH)
  container                         docker run -d -p 1883:1883 -v "$PWD/mosquitto:/mosquitto/config:ro" eclipse-mosquitto:2
                                    then: make demo ARGS="--broker mqtt://127.0.0.1:1883"
T
    exit 1
  fi
  # Debian starts a system broker on port 1883 when the package is installed; the demo and the tests start their own.
fi
# The same as in federation/doctor.py, which `coordinator doctor` asks.
secure=2.0.21
patched=2.0.11-1.2+deb12u
PATH=$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin
version=$( (mosquitto -h 2>/dev/null || true) | sed -n 's/^mosquitto version \([0-9.]*\).*/\1/p')
package=$(dpkg-query -W -f '${Version}' mosquitto 2>/dev/null || true)
if [ -n "$version" ] && [ "$(printf '%s\n' "$secure" "$version" | sort -V | head -n 1)" != "$secure" ]; then
  case $package in
    "$patched"[2-9] | "$patched"[1-9][0-9]) ;;
    *) say "Mosquitto $version lacks security fixes that $secure has, unless your system's package brings them: see SECURITY.md" >&2 ;;
  esac
fi

# A second argument names a further broker for the tests, which start their own and never the system's.
if [ "${2:-}" = ejabberd ] && ! PATH=$PATH:/usr/sbin command -v ejabberdctl >/dev/null; then
  apt_install ejabberd || { say "ejabberd could not be installed from here: the tests that need it are skipped" >&2; }
  as_root systemctl disable --now ejabberd >/dev/null 2>&1 || true
fi
say "ready"
