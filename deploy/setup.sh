#!/usr/bin/env bash
# Sets up one machine: .venv with pinned packages, and Mosquitto. Safe to run again.
#
#   deploy/setup.sh [VENV] [demo | ejabberd | browser | postgresql]
#
# demo: only what `make demo` needs. ejabberd, browser, postgresql: all that development needs, and a second broker,
# Chromium, or a database server, for the tests.
set -euo pipefail
venv=${1:-.venv}
what=${2:-}
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

# What is installed is not compiled: pip does that on one core.
install() {
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-warn-script-location --no-compile "$@"
}
# The blocks of these packages, of those whose bytes are known.
pinned() { awk 'NR == FNR { want[$1]; next } /^[A-Za-z0-9]/ { split($1, name, "=="); keep = name[1] in want } keep' - deploy/hashes.txt; }

# uv downloads and unpacks on all cores: seconds in place of half a minute. It does not read pip's own settings, such as a
# company's index, so it is only asked for what is known by its bytes, wherever it finds them; pip does the rest, and all
# where there is no uv.
install_quickly() {
  local uv settings index more
  uv=$(command -v uv || echo "$venv/bin/uv")
  if [ ! -x "$uv" ]; then
    echo uv | pinned > "$list.uv"
    install --require-hashes --no-deps --only-binary :all: -r "$list.uv" >/dev/null 2>&1 || return 1
  fi
  settings=$("$venv/bin/python" -m pip config list 2>/dev/null || true)
  index=$(sed -n "s/^[^=]*\.index-url='\(.*\)'$/\1/p" <<< "$settings" | tail -n 1)
  more=$(sed -n "s/^[^=]*\.extra-index-url='\(.*\)'$/\1/p" <<< "$settings" | tail -n 1)
  env ${index:+UV_DEFAULT_INDEX="$index"} ${more:+UV_INDEX="$more"} UV_INDEX_STRATEGY=unsafe-best-match UV_HTTP_RETRIES=1 \
    "$uv" pip install -q --python "$venv/bin/python" --require-hashes --no-deps -r "$1" >/dev/null 2>&1
}
extras=torch,demo,plot,postgresql,tensorboard,onnx,dev
wanted() { cat deploy/hashes.txt; }
if [ "$what" = demo ]; then
  extras=torch,demo
  wanted() { pinned < deploy/demo.txt; }
fi

case $what in demo) say "installing the packages of the demo, pinned (the first time this takes a minute)" ;; *) say "installing pinned packages (the first time this takes a minute or two)" ;; esac
# Half of the time is torch's, on another core: unpacked beside the others, without what it needs. What goes wrong here is
# said by the last call, which looks at everything once more.
install --no-deps -c constraints.txt torch torchvision >/dev/null 2>&1 &
torch=$!
list=$(mktemp)
trap 'rm -f "$list" "$list.uv"; [ -z "$torch" ] || kill "$torch" 2>/dev/null || true' EXIT
# Each file is compared with its hash. Not torch's: see deploy/hashes.txt. A build of the system's own vendor, or one that
# is compiled here, has another hash: HASHES=0 takes the same releases without looking at the bytes.
if [ "${HASHES:-1}" = 1 ]; then
  wanted > "$list"
  if ! install_quickly "$list" && ! install --require-hashes --no-deps -r "$list"; then
    say "a package could not be had with the bytes that deploy/hashes.txt names. Where this platform has builds of its" >&2
    say "own (such as 32-bit ARM), and you trust their source: HASHES=0 make setup" >&2
    exit 1
  fi
else
  install -c constraints.txt hatchling editables
fi
wait "$torch" || true
torch=
# One call, so that torch and torchvision are resolved together. hatchling and editables are there: the editable install
# needs no build environment of its own.
install --no-build-isolation -c constraints.txt -e ".[$extras]"

# All cores compile what the tests start hundreds of programs with. For a demo it is enough at the first use.
if [ "$what" != demo ]; then
  packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$venv/bin/python" -m compileall -q -j 0 -x '/(tests|testing|_inductor|mypy|pip|fontTools)/' "$packages" >/dev/null 2>&1 || true
fi

# Compiled loops of the codec, where there is a compiler. The demo does without: what it codes is small.
if [ "$what" != demo ] && command -v "${CC:-cc}" >/dev/null; then
  "$venv/bin/python" -m update_codec kernel --build >/dev/null || say "the codec's loops could not be compiled: NumPy does their work"
fi

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

# The tests start a broker of their own, never the system's.
if [ "$what" = ejabberd ] && ! PATH=$PATH:/usr/sbin command -v ejabberdctl >/dev/null; then
  apt_install ejabberd || { say "ejabberd could not be installed from here: the tests that need it are skipped" >&2; }
  as_root systemctl disable --now ejabberd >/dev/null 2>&1 || true
fi
if [ "$what" = browser ] && ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then
  apt_install chromium || { say "Chromium could not be installed from here: the tests that need it are skipped" >&2; }
fi
# The tests start a server of their own, never the system's.
if [ "$what" = postgresql ] && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ! command -v initdb >/dev/null; then
  apt_install postgresql || { say "PostgreSQL could not be installed from here: the tests that need it are skipped" >&2; }
  as_root systemctl disable --now postgresql >/dev/null 2>&1 || true
fi
say "ready"
