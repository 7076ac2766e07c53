#!/bin/sh
# Whether Mosquitto listens on the first port of a configuration: broker-listens [FILE]
set -eu
port=$(sed -n 's/^listener \([0-9][0-9]*\).*/\1/p' "${1:-mosquitto.conf}" | head -n 1)
# The kernel's table of sockets: the port in hexadecimal, no peer yet, state 0A (listening).
grep -qE ":$(printf '%04X' "$port") 0+:0000 0A" /proc/net/tcp /proc/net/tcp6
