#!/bin/sh
# Make sure that a Docker engine answers. If there is none, install one from Debian's packages and
# start it without a service manager. Run this as root.
# The last line printed is the engine's address, for DOCKER_HOST.
#
#   start_engine.sh              use an engine that answers, or start one of our own
#   start_engine.sh DIRECTORY    start one in DIRECTORY, which has docker.sock and dockerd.pid
#   start_engine.sh --stop [DIRECTORY]    end the engine in DIRECTORY; its images stay
#
# Without DIRECTORY, our own engine is in /var/tmp/usageledger-docker.
set -eu

action=start
if [ "${1:-}" = --stop ]; then action=stop; shift; fi
directory=${1:-/var/tmp/usageledger-docker}
socket="unix://$directory/docker.sock"

if [ $action = stop ]; then
  pid=$(cat "$directory/dockerd.pid" 2>/dev/null || true)
  [ "$(cat "/proc/${pid:-none}/comm" 2>/dev/null)" = dockerd ] || exit 0
  kill "$pid"
  for _ in $(seq 100); do
    [ -d "/proc/$pid" ] || exit 0
    sleep 0.3
  done
  kill -9 "$pid"
  exit 1
fi

answers() { DOCKER_HOST=$1 timeout 10 docker version >/dev/null 2>&1; }

if command -v docker >/dev/null; then
  if answers "$socket"; then echo "$socket"; exit 0; fi
  other=${DOCKER_HOST:-unix:///var/run/docker.sock}
  if [ $# -eq 0 ] && answers "$other"; then echo "$other"; exit 0; fi
fi

if ! command -v dockerd >/dev/null; then
  echo "installing docker.io" >&2
  export DEBIAN_FRONTEND=noninteractive
  timeout 120 apt-get update -qq >&2
  timeout 300 apt-get install -y -qq --no-install-recommends docker.io iptables >&2
fi

mkdir -p "$directory"
echo "starting dockerd; its log is $directory/dockerd.log" >&2
setsid dockerd --data-root "$directory/data" --exec-root "$directory/exec" \
  --pidfile "$directory/dockerd.pid" -H "$socket" >"$directory/dockerd.log" 2>&1 </dev/null &
for _ in $(seq 60); do
  if answers "$socket"; then echo "$socket"; exit 0; fi
  sleep 0.5
done
echo "dockerd did not answer in time; the end of its log:" >&2
tail -n 20 "$directory/dockerd.log" >&2
exit 1
