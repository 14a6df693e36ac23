#!/bin/sh
# Make two images for `--backend docker` from packages, where no image registry is reachable:
#   usageledger-kafka (a Java and Apache Kafka's jars) and usageledger-redis (a Valkey).
# Their Debian base is made here too.
# Needs a Docker engine (start_engine.sh, DOCKER_HOST) and a Python with the local extra (PYTHON, by
# default .venv/bin/python). A second run makes only the changed parts again. To use the images:
#   export USAGELEDGER_KAFKA_IMAGE=usageledger-kafka USAGELEDGER_REDIS_IMAGE=usageledger-redis
set -eu

cd "$(dirname "$0")/../.."
here=infra/docker
python=${PYTHON:-.venv/bin/python}
context=build/docker
base=usageledger-base
export DOCKER_BUILDKIT=0

suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")

mkdir -p "$context/kafka/libs" "$context/redis"
if ! docker image inspect "$base" >/dev/null 2>&1; then
  if ! command -v mmdebstrap >/dev/null; then
    echo "installing mmdebstrap"
    timeout 120 apt-get update -qq
    DEBIAN_FRONTEND=noninteractive timeout 300 \
      apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
  fi
  echo "making a Debian $suite base"
  timeout 300 mmdebstrap --quiet --variant=essential "$suite" "$context/base.tar"
  docker import "$context/base.tar" "$base" >/dev/null
  rm -f "$context/base.tar"
fi

# `usageledger up` fetches the jars in the same way, and compares each with its digest in the lock.
"$python" - "$context" <<'PYTHON'
import shutil
import sys
from pathlib import Path

from usageledger.local.java import find_java
from usageledger.local.kafka_jars import fetch_jars
from usageledger.local.redis_server import find_redis

context = Path(sys.argv[1])
jars = fetch_jars()
libs = context / "kafka" / "libs"
for stale in {path.name for path in libs.iterdir()} - {jar.name for jar in jars}:
    (libs / stale).unlink()
for jar in jars:
    shutil.copy2(jar, libs / jar.name)
java = find_java().resolve().parents[1]
shutil.copytree(java, context / "kafka" / "java", symlinks=True, dirs_exist_ok=True)
shutil.copy2(find_redis().path, context / "redis" / "valkey-server")
PYTHON

for image in kafka redis; do
  echo "building usageledger-$image"
  docker build --quiet --tag "usageledger-$image" --file "$here/$image/Dockerfile" \
    "$context/$image" >/dev/null
done
docker image ls --format '{{.Repository}} {{.Size}}' | grep '^usageledger-'
