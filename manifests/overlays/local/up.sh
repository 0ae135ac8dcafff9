#!/bin/sh
# The service on a kind cluster of this machine. Not run in CI, which has no containers.
# Needs kind, kubectl, openssl, and docker or podman with the image service-cpu (../../images/build.sh).
# Run again, it goes on where it was. `kind delete cluster --name tuft` takes all away.
set -eu
cd "$(dirname "$0")"
version=0.1.0
image=tuft-pipelines/service-cpu:$version

kind get clusters | grep -qx tuft || kind create cluster --name tuft
kind load docker-image "$image" --name tuft
kubectl config use-context kind-tuft
kubectl apply -f ../../base/namespace.yaml

# A Secret that exists stays: the store and MinIO know its values.
secret() {
  name=$1; shift
  kubectl -n tuft get secret "$name" >/dev/null 2>&1 || kubectl -n tuft create secret generic "$name" "$@"
}
key=tml-$(openssl rand -hex 24)
secret tuft-valkey --from-literal=password="$(openssl rand -hex 24)"
secret tuft-object-store --from-literal=AWS_ACCESS_KEY_ID=tuft \
  --from-literal=AWS_SECRET_ACCESS_KEY="$(openssl rand -hex 24)"
secret tuft-api-keys --from-literal=api_keys.yaml="[{key: $key, tenant: local}]"

kubectl apply -k .
kubectl -n tuft wait --for=condition=complete --timeout=20m job/tuft-model-download
kubectl -n tuft rollout status --timeout=20m deployment/tuft-api
kubectl -n tuft rollout status --timeout=20m statefulset/tuft-trainer
kubectl -n tuft rollout status --timeout=20m statefulset/tuft-sampler

cat <<END
The service is ready. In another terminal:
  kubectl -n tuft port-forward service/tuft-api 8080
  export TINKER_BASE_URL=http://localhost:8080
The key: kubectl -n tuft get secret tuft-api-keys -o jsonpath='{.data.api_keys\.yaml}' | base64 -d
END
