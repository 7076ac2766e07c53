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
name=fedmq-broker-$$
settings=$(mktemp -d)
trap 'rm -rf "$settings"' EXIT
flags=(--rm --name "$name" --read-only --cap-drop ALL --security-opt no-new-privileges --user 10001:10001)
flags+=(-v "$settings:/mosquitto/config:ro")
if [ "$(uname)" = Linux ]; then
  # The host's own network: the broker listens on the loopback itself.
  address=127.0.0.1
  flags+=(--network host)
else
  # In a network of its own it must listen for the published port.
  address=0.0.0.0
  flags+=(-p "127.0.0.1:$port:$port")
fi
sed "s/^listener 1883 127.0.0.1/listener $port $address/" mosquitto/demo.conf >"$settings/mosquitto.conf"
chmod 755 "$settings" && chmod 644 "$settings/mosquitto.conf"
echo "broker: mqtt://127.0.0.1:$port in a container of $image; Ctrl-C ends it"
# In the background, because a shell that waits for a program in the foreground hears no signal.
# Each client is an open file: as many as the engine allows, not the usual 1,024.
raise='ulimit -n "$(ulimit -Hn)"; exec mosquitto -c /mosquitto/config/mosquitto.conf'
"$engine" run "${flags[@]}" --entrypoint sh "$image" -c "$raise" &
trap '"$engine" stop -t 5 "$name" >/dev/null 2>&1 || true' INT TERM
wait $! || wait $! || true
