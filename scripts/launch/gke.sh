#!/usr/bin/env bash
# Starts a run on Kubernetes, such as GKE: an indexed Job with one pod per host, which is not failed
# by a pod that asks to be started again or is evicted.
#
#   scripts/launch/gke.sh --name x --image IMAGE --pods 2 --device nvidia.com/gpu=8 --claim runs
#     [--selector cloud.google.com/gke-accelerator=nvidia-h100-80gb] [--folder /mtl_vision]
#     [--dry-run] -- --config configs/x.py --workdir /runs/x
#
# --device is a resource of one pod, such as google.com/tpu=4; --selector a comma-separated list of
# node labels; --claim a volume claim that all pods may write, mounted at /runs; --folder where the
# code lies in the image. With --dry-run it prints the manifest.
set -euo pipefail
name='' image='' pods=1 device='' claim='' selector='' folder=/mtl_vision
flags='dry_run' options='name image pods device claim selector folder'
. "$(dirname "$0")/options.sh"
[ -n "$name" ] && [ -n "$image" ] && [ -n "$claim" ] || fail "--name, --image and --claim are needed."

# A string as YAML and JSON write it.
quoted() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}
manifest() {
  cat <<EOF
apiVersion: v1
kind: Service
metadata: {name: $name}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {job-name: $name}
---
apiVersion: batch/v1
kind: Job
metadata: {name: $name}
spec:
  completionMode: Indexed
  completions: $pods
  parallelism: $pods
  backoffLimit: 0
  podFailurePolicy:
    rules:
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget}]
    # 75: saved and asked to be started again, or another pod was lost. The others: signals.
    - action: Ignore
      onExitCodes: {operator: In, values: [75, 134, 137, 143]}
    - action: FailJob
      onExitCodes: {operator: NotIn, values: [0, 75, 134, 137, 143]}
  template:
    spec:
      restartPolicy: Never
      subdomain: $name
      terminationGracePeriodSeconds: 180
EOF
  if [ -n "$selector" ]; then
    echo "      nodeSelector:"
    local label
    for label in ${selector//,/ }; do
      echo "        ${label%%=*}: $(quoted "${label#*=}")"
    done
  fi
  cat <<EOF
      containers:
      - name: train
        image: $image
        workingDir: $folder
        # exec: the signal of an eviction goes to the program.
        command: ["bash", "-c", $(quoted "exec $command")]
        env:
        - {name: JAX_COORDINATOR_ADDRESS, value: "$name-0.$name:8476"}
        - {name: JAX_NUM_PROCESSES, value: "$pods"}
        - name: JAX_PROCESS_ID
          valueFrom:
            fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
        volumeMounts: [{name: runs, mountPath: /runs}]
EOF
  [ -z "$device" ] || echo "        resources: {limits: {${device%%=*}: ${device#*=}}}"
  echo "      volumes: [{name: runs, persistentVolumeClaim: {claimName: $claim}}]"
}
if [ -n "$dry_run" ]; then manifest; else manifest | kubectl apply -f -; fi
