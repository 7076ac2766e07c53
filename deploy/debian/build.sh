#!/usr/bin/env bash
# Builds Debian packages of this release with dpkg-deb, for the Python of Debian 12 (3.11) unless told otherwise.
#
#   deploy/debian/build.sh [amd64|arm64]... [--python 3.13] [--out DIR]
#
# A package is an environment below /opt/fedmq that uses the system's Python: the base, the page and pip, from the wheels of
# constraints.txt. Debian's own cryptography, pydantic and msgpack are older than what is needed, so they are in it. torch is
# not: a device's owner adds the build that suits it, by /opt/fedmq/bin/pip. There is no package for 32-bit ARM:
# cryptography, msgpack, numpy and zstandard publish no wheels for it. Packed with zstd, which dpkg of Debian 12 reads.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=3.11
out=out/deb
architectures=()
while [ $# -gt 0 ]; do
  case $1 in
    --python) python=$2; shift ;;
    --out) out=$2; shift ;;
    amd64 | arm64) architectures+=("$1") ;;
    *) printf 'deb: amd64, arm64, --python or --out, not %s\n' "$1" >&2; exit 2 ;;
  esac
  shift
done
[ ${#architectures[@]} -gt 0 ] || architectures=(amd64 arm64)
command -v dpkg-deb >/dev/null || { echo "deb: needs dpkg-deb (Debian, Ubuntu: it is in every installation)" >&2; exit 1; }
pip=(.venv/bin/pip --quiet --disable-pip-version-check)
version=$(.venv/bin/python -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
next="${python%.*}.$((${python#*.} + 1))"
# The same sources give the same bytes.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
# With the codec's compiled loops, where there is a compiler for that machine.
wheel_for() {
  local machine=$1 compiler=$1-linux-gnu-gcc
  [ "$machine" != "$(uname -m)" ] || compiler=${CC:-cc}
  if ! command -v "$compiler" >/dev/null; then
    printf 'deb: no %s: the codec of %s works with NumPy alone\n' "$compiler" "$machine" >&2
    machine=
  fi
  FEDMQ_WHEEL_MACHINE=$machine "${pip[@]}" wheel --no-deps --no-build-isolation -w "$work/wheel-$1" .
  echo "$work/wheel-$1"/fedmq-*.whl
}

build() {
  local architecture=$1 machine=$2 root=$work/$1
  local wheel
  wheel=$(wheel_for "$machine")
  local site=$root/opt/fedmq/lib/python$python/site-packages doc=$root/usr/share/doc/fedmq file
  mkdir -p "$site" "$root/opt/fedmq/bin" "$root/usr/bin" "$doc" "$root/usr/lib/systemd/system" "$root/DEBIAN"
  # Wheels for that machine, whatever this one is; nothing is compiled.
  "${pip[@]}" install --target "$site" --no-compile --only-binary=:all: --implementation cp --python-version "$python" \
    --abi "cp${python/./}" --abi abi3 --abi none --platform "manylinux_2_34_$machine" --platform "manylinux_2_28_$machine" \
    --platform "manylinux_2_27_$machine" --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" \
    -c constraints.txt "$wheel[page]" pip
  rm -rf "$site/bin" "$site"/*/__pycache__
  # What python3 -m venv would write.
  printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$python" > "$root/opt/fedmq/pyvenv.cfg"
  ln -s "/usr/bin/python$python" "$root/opt/fedmq/bin/python"
  ln -s python "$root/opt/fedmq/bin/python3"
  program() { printf '#!/opt/fedmq/bin/python\nimport sys\nfrom %s import main\nsys.exit(main())\n' "$2" > "$root/opt/fedmq/bin/$1"; }
  program coordinator coordinator.cli
  program edge-node edge_node.cli
  program fedmq fedmq.cli
  program pip pip._internal.cli.main
  chmod 755 "$root"/opt/fedmq/bin/{coordinator,edge-node,fedmq,pip}
  ln -s /opt/fedmq/bin/coordinator /opt/fedmq/bin/edge-node /opt/fedmq/bin/fedmq "$root/usr/bin/"
  cp federation/services/*.service federation/services/*.timer "$root/usr/lib/systemd/system/"
  cp LICENSE "$doc/copyright"
  gzip -9nc CHANGELOG.md > "$doc/changelog.gz"
  control "$architecture" "$(du -sk --apparent-size "$root/opt" "$root/usr" | awk '{s += $1} END {print s}')" > "$root/DEBIAN/control"
  for file in postinst prerm postrm; do
    sed "s/@PYTHON@/$python/g" "deploy/debian/$file" > "$root/DEBIAN/$file"
    chmod 755 "$root/DEBIAN/$file"
  done
  (cd "$root" && find opt usr -type f -print0 | sort -z | xargs -0 md5sum > DEBIAN/md5sums)
  find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  chmod -R u+rwX,go+rX,go-w "$root"
  dpkg-deb --root-owner-group -Zzstd -z9 --build "$root" "$out/fedmq_${version}-1_$architecture.deb" >/dev/null
  printf '%s\n' "$out/fedmq_${version}-1_$architecture.deb"
}

control() {
  cat <<CONTROL
Package: fedmq
Version: $version-1
Architecture: $1
Maintainer: The fedmq authors <root@localhost>
Installed-Size: $2
Depends: python3 (>= $python), python3 (<< $next), passwd
Recommends: mosquitto
Section: science
Priority: optional
Description: asynchronous federated learning over MQTT for edge fleets
 One model is trained on devices whose data never leaves them. A Mosquitto
 broker links one coordinator to any number of edge nodes; updates are small,
 and nothing is lost when a process is killed, a link fails, or the power goes.
 .
 This package has the coordinator, the edge node, the helper of masked sums and
 their systemd units; no service is started before it has its settings. A task
 that needs torch, scikit-learn or ONNX Runtime needs it added:
 /opt/fedmq/bin/pip install torch.
 .
 It is for 64-bit systems only: on 32-bit ARM there are no builds of what it
 needs.
CONTROL
}

for architecture in "${architectures[@]}"; do
  case $architecture in
    amd64) build amd64 x86_64 ;;
    arm64) build arm64 aarch64 ;;
  esac
done
