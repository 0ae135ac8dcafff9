#!/bin/sh
# Builds the three images, or those that are named: ./build.sh [steps] [service-cpu] [service-cuda]
# Not run in CI, which has no containers. Needs podman or docker (ENGINE names one), and git.
# REGISTRY=registry.example.com/ puts it before the names and pushes what was built.
set -eu
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
engine=${ENGINE:-$(command -v podman || command -v docker)}
registry=${REGISTRY:-}
[ $# -gt 0 ] || set -- steps service-cpu service-cuda

# What is committed, and nothing else: no environment of gigabytes, no file by accident.
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
git archive HEAD | tar -x -C "$context"

for name in "$@"; do
  image=${registry}tuft-pipelines/$name:$version
  "$engine" build -f "manifests/images/$name.Containerfile" \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD)" \
    -t "$image" "$context"
  [ -z "$registry" ] || "$engine" push "$image"
done
