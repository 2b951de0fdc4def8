# shellcheck shell=bash
# The manifests for GKE: a JobSet, and a pod that reads the run folder back.
# The shape: kubernetes-sigs/jobset@08dfbdf, site/static/examples/tpu-multislice/v6e-jax-workload.yaml and
# failure-policy/host-maintenance-event-model.yaml; docs.cloud.google.com/kubernetes-engine/docs/how-to/
# tpu-multislice. GKE and JobSet set TPU_WORKER_ID, TPU_WORKER_HOSTNAMES and MEGASCALE_* in the pods, and
# JobSet makes the headless service.
# Used by: gke.sh. Needs: commands.sh, slices.sh, jobs.sh.

# One word as a JSON string, which YAML reads too.
json_word() {
  local text=$1
  [[ $text != *[$'\001'-$'\010'$'\013'-$'\037']* ]] ||
    fail "an argument has a control character" "printable text" "leave it out"
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\t'/\\t}
  text=${text//$'\n'/\\n}
  printf '"%s"' "$text"
}

# The words of a command as a JSON list. Kubernetes would expand $(NAME) in them: a $ is written twice.
json_command() {
  local each comma=''
  printf '['
  for each in "$@"; do
    printf '%s' "$comma"
    json_word "${each//\$/\$\$}"
    comma=', '
  done
  printf ']'
}

# Variables that may be read by whoever reads the manifest; secrets come from a Kubernetes Secret.
manifest_environment() {
  local each name value
  printf '              - name: PYTHONUNBUFFERED\n                value: "1"\n'
  if ((HOSTS * SLICES > 1)); then
    printf '              - name: JAXDL_DISTRIBUTED\n                value: auto\n'
  fi
  for each in "${ENVS[@]}"; do
    name=${each%%=*}
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ && $each == *=* ]] ||
      fail "--env needs a name and a value" "--env NAME=VALUE" "for secrets: --secret, see docs/launch.md"
    ! is_secret "$name" || fail "--env $name would stand in the manifest, for all to read" "a Kubernetes Secret" \
      "kubectl create secret generic NAME --from-env-file=FILE, then --secret NAME"
    value=${each#*=}
    printf '              - name: %s\n                value: %s\n' "$name" "$(json_word "${value//\$/\$\$}")"
  done
}

# The storage, at /mnt/jaxdl. $1: spaces before the list.
manifest_volume() {
  printf '%s- name: storage\n' "$1"
  if [[ -n ${OPT[pvc]:-} ]]; then
    printf '%s  persistentVolumeClaim:\n%s    claimName: %s\n' "$1" "$1" "${OPT[pvc]}"
  elif [[ -n ${OPT[nfs]:-} ]]; then
    printf '%s  nfs:\n%s    server: %s\n%s    path: %s\n' "$1" "$1" "${OPT[nfs]%%:*}" "$1" "$(json_word "${OPT[nfs]#*:}")"
  else
    # docs.cloud.google.com/kubernetes-engine/docs/how-to/cloud-storage-fuse-csi-driver-ephemeral
    printf '%s  csi:\n%s    driver: gcsfuse.csi.storage.gke.io\n%s    volumeAttributes:\n' "$1" "$1" "$1"
    printf '%s      bucketName: %s\n%s      mountOptions: "implicit-dirs,uid=1000,gid=1000,file-system:rename-dir-limit:200000"\n' \
      "$1" "${OPT[bucket]}" "$1"
  fi
}

# An annotation makes GKE add the sidecar that mounts the bucket. $1: spaces before it.
manifest_annotations() {
  [[ -z ${OPT[bucket]:-} ]] || printf '%sannotations:\n%s  gke-gcsfuse/volumes: "true"\n' "$1" "$1"
}

# The image's own user; root where the cluster gives a TPU's device files to no other.
manifest_user() {
  if [[ ${OPT[root]:-} == yes ]]; then
    printf '{runAsUser: 0, fsGroup: 1000}'
  else
    printf '{runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}'
  fi
}

# $1: spaces before it.
manifest_optional() {
  if [[ -n ${OPT[service-account]:-} ]]; then printf '%sserviceAccountName: %s\n' "$1" "${OPT[service-account]}"; fi
}

# Slices talk over the data-centre network: the host's own is the faster one (not with a bucket, whose
# sidecar needs the pod's).
manifest_network() {
  if ((SLICES > 1)) && [[ -z ${OPT[bucket]:-} ]]; then
    printf '            hostNetwork: true\n            dnsPolicy: ClusterFirstWithHostNet\n'
  fi
}

manifest_selector() {
  printf '              cloud.google.com/gke-tpu-accelerator: %s\n' "$LABEL"
  printf '              cloud.google.com/gke-tpu-topology: %s\n' "$TOPOLOGY"
  case $(capacity_kind) in
    spot) printf '              cloud.google.com/gke-spot: "true"\n' ;;
    reserved) printf '              cloud.google.com/reservation-name: %s\n' "${OPT[reservation]}" ;;
  esac
}

# A job fails as a whole when one of its pods does. Exit code 75 (saved) and a pod that was evicted are
# restarted without end; any other failure --restarts times. The run folder is the same each time.
jobset_manifest() {
  local environment command
  environment=$(manifest_environment)
  command=$(json_command jaxdl train "${ARGS[0]}" --run-dir "$RUN_PATH" "${ARGS[@]:1}")
  # shellcheck disable=SC2153 # parse_options sets NAME
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  namespace: ${OPT[namespace]}
  labels:
    app.kubernetes.io/name: jaxdl
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  network:
    enableDNSHostnames: true
  failurePolicy:
    maxRestarts: ${OPT[restarts]}
    rules:
    - name: preempted
      action: RestartJobSetAndIgnoreMaxRestarts
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: ${OPT[slices]}
    template:
      spec:
        completionMode: Indexed
        completions: $HOSTS
        parallelism: $HOSTS
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: jaxdl, operator: In, values: [75]}
          - action: FailJob
            onPodConditions: [{type: DisruptionTarget, status: "True"}]
        template:
          metadata:
            labels:
              app.kubernetes.io/name: jaxdl
$(manifest_annotations '            ')
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120
$(manifest_network)
$(manifest_optional '            ')
            nodeSelector:
$(manifest_selector)
            securityContext: $(manifest_user)
            containers:
            - name: jaxdl
              image: $(json_word "${OPT[image]}")
              command: $command
              ports: [{containerPort: 8471}, {containerPort: 8080}]
              env:
$environment
$(if [[ -n ${OPT[secret]:-} ]]; then printf '              envFrom: [{secretRef: {name: %s}}]\n' "${OPT[secret]}"; fi)
              resources:
                limits: {google.com/tpu: $PER_HOST}
                requests: {google.com/tpu: $PER_HOST}
              volumeMounts: [{name: storage, mountPath: /mnt/jaxdl}]
            volumes:
$(manifest_volume '            ')
YAML
}

# A pod without a TPU, from which kubectl copies the run folder.
reader_manifest() {
  cat <<YAML
apiVersion: v1
kind: Pod
metadata:
  name: $NAME-reader
  namespace: ${OPT[namespace]}
  labels:
    app.kubernetes.io/name: jaxdl
$(manifest_annotations '  ')
spec:
  restartPolicy: Never
$(manifest_optional '  ')
  securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}
  containers:
  - name: reader
    image: $(json_word "${OPT[image]}")
    command: [sleep, "3600"]
    volumeMounts: [{name: storage, mountPath: /mnt/jaxdl, readOnly: true}]
  volumes:
$(manifest_volume '  ')
YAML
}
