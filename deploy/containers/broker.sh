#!/usr/bin/env bash
# make broker: a Mosquitto container with mosquitto/demo.conf's limits, on this machine's loopback only, until Ctrl-C.
# docker or podman, whichever is there. BROKER_IMAGE names another image, PORT another port.
set -euo pipefail
cd "$(dirname "$0")/../.."
image=${BROKER_IMAGE:-eclipse-mosquitto:2}
port=${PORT:-1883}
engine=
for name in docker podman; do
  # The program alone is not enough: Docker's needs its engine.
  if [ -z "$engine" ] && command -v "$name" >/dev/null && "$name" info >/dev/null 2>&1; then engine=$name; fi
done
if [ -z "$engine" ]; then
  echo "make broker: neither docker nor podman runs here; without a container: mosquitto -c mosquitto/demo.conf" >&2
  exit 1
fi
settings=$(mktemp -d)
trap 'rm -rf "$settings"' EXIT
# In its own network the container must listen for the published port; on the host's network loopback is enough.
sed "s/^listener 1883 127.0.0.1/listener 1883 ${LISTEN:-0.0.0.0}/; s/^listener 1883/listener $port/" mosquitto/demo.conf >"$settings/mosquitto.conf"
chmod 755 "$settings" && chmod 644 "$settings/mosquitto.conf"
echo "broker: mqtt://127.0.0.1:$port in a container of $image; Ctrl-C ends it"
flags=(--rm --read-only --cap-drop ALL --security-opt no-new-privileges --user 10001:10001)
flags+=(-v "$settings:/mosquitto/config:ro" -p "127.0.0.1:$port:$port")
"$engine" run "${flags[@]}" --entrypoint mosquitto "$image" -c /mosquitto/config/mosquitto.conf
