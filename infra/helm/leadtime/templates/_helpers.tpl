{{- define "leadtime.fullname" -}}
{{- if contains "leadtime" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-leadtime" (.Release.Name | trunc 31 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "leadtime.selector" -}}
app.kubernetes.io/name: leadtime
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "leadtime.labels" -}}
{{ include "leadtime.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "leadtime.image" -}}
{{ required "image.repository: where your nodes can pull the image from" .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Client options as LEADTIME_KAFKA has them; the kubelet puts user and password in. */}}
{{- define "leadtime.kafkaOptions" -}}
{{- $options := deepCopy .Values.kafka.options }}
{{- with .Values.kafka.sasl }}
{{- if .existingSecret }}
{{- $_ := set $options "sasl.username" (ternary "$(KAFKA_USERNAME)" .username (ne .usernameKey "")) }}
{{- $_ := set $options "sasl.password" "$(KAFKA_PASSWORD)" }}
{{- end }}
{{- end }}
{{- with .Values.kafka.ca }}
{{- if .existingSecret }}{{ $_ := set $options "ssl.ca.location" (printf "/etc/leadtime/kafka-ca/%s" .key) }}{{ end }}
{{- end }}
{{- with .Values.kafka.client }}
{{- if .existingSecret }}
{{- $_ := set $options "ssl.certificate.location" (printf "/etc/leadtime/kafka-client/%s" .certificateKey) }}
{{- $_ := set $options "ssl.key.location" (printf "/etc/leadtime/kafka-client/%s" .keyKey) }}
{{- end }}
{{- end }}
{{- toJson $options }}
{{- end }}

{{- define "leadtime.environment" -}}
- {name: LEADTIME_BOOTSTRAP, value: {{ required "kafka.bootstrap: host:port of your brokers" .Values.kafka.bootstrap | quote }}}
{{- with .Values.kafka.sasl }}
{{- if .existingSecret }}
{{- if .usernameKey }}
- name: KAFKA_USERNAME
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .usernameKey | quote }}}}
{{- end }}
- name: KAFKA_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .passwordKey | quote }}}}
{{- end }}
{{- end }}
- {name: LEADTIME_KAFKA, value: {{ include "leadtime.kafkaOptions" . | quote }}}
{{- range $name, $value := .Values.settings }}
- {name: LEADTIME_{{ upper $name }}, value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}}
{{- end }}
- {name: LEADTIME_DATA_DIR, value: /data}
- {name: LEADTIME_METRICS_HOST, value: 0.0.0.0}
- {name: LEADTIME_METRICS_PORT, value: "9400"}
# Caches of libraries: nothing else is writable.
- {name: HOME, value: /tmp}
{{- end }}

{{- define "leadtime.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- if .Values.kafka.ca.existingSecret }}
- {name: kafka-ca, mountPath: /etc/leadtime/kafka-ca, readOnly: true}
{{- end }}
{{- if .Values.kafka.client.existingSecret }}
- {name: kafka-client, mountPath: /etc/leadtime/kafka-client, readOnly: true}
{{- end }}
{{- end }}

{{- define "leadtime.volumes" -}}
- {name: data, emptyDir: {sizeLimit: 1Gi}}
- {name: tmp, emptyDir: {sizeLimit: 1Gi}}
{{- with .Values.kafka.ca }}
{{- if .existingSecret }}
- name: kafka-ca
  secret: {secretName: {{ .existingSecret | quote }}, items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]}
{{- end }}
{{- end }}
{{- with .Values.kafka.client }}
{{- if .existingSecret }}
- name: kafka-client
  secret:
    secretName: {{ .existingSecret | quote }}
    items:
      - {key: {{ .certificateKey | quote }}, path: {{ .certificateKey | quote }}}
      - {key: {{ .keyKey | quote }}, path: {{ .keyKey | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "leadtime.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
enableServiceLinks: false
{{- end }}

{{- define "leadtime.container" -}}
image: {{ include "leadtime.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* A Deployment of a stage: root, name, port, arguments, values, single, token, and optional secret, path, env, targets. */}}
{{- define "leadtime.stage" -}}
{{- $root := .root }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "leadtime.fullname" $root }}-{{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "leadtime.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
spec:
  replicas: {{ .single | ternary 1 (int .values.replicas) }}
  revisionHistoryLimit: 3
  # No process beside those that have the partitions, or the targets: it would never be ready.
  strategy:
    {{- if .single }}
    type: Recreate
    {{- else }}
    type: RollingUpdate
    rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
    {{- end }}
  selector:
    matchLabels:
      {{- include "leadtime.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .name }}
  template:
    metadata:
      labels:
        {{- include "leadtime.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
      {{- if .targets }}
      annotations:
        checksum/targets: {{ include "leadtime.targets" $root | sha256sum }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "leadtime.fullname" $root }}{{ if .targets }}-actuator{{ end }}
      automountServiceAccountToken: {{ .token | default false }}
      terminationGracePeriodSeconds: 30
      {{- include "leadtime.podSecurity" $root | nindent 6 }}
      {{- with .values.nodeSelector }}
      nodeSelector: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations }}
      tolerations: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.affinity }}
      affinity: {{ toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "leadtime.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ .name }}
      containers:
        - name: {{ .stage }}
          {{- include "leadtime.container" $root | nindent 10 }}
          args: {{ toJson .arguments }}
          env:
            {{- include "leadtime.environment" $root | nindent 12 }}
            {{- with .env }}
            - {name: {{ . }}, value: {{ printf "%s/%s" $.path $.secret.key | quote }}}
            {{- end }}
            {{- with .values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - {name: metrics, containerPort: {{ .port }}}
          # A worker loads and compiles its model first.
          startupProbe:
            httpGet: {path: /healthz, port: metrics}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /healthz, port: metrics}
            periodSeconds: 15
            timeoutSeconds: 10
            failureThreshold: 3
          readinessProbe:
            httpGet: {path: /readyz, port: metrics}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 2
          resources: {{ toYaml .values.resources | nindent 12 }}
          volumeMounts:
            {{- include "leadtime.mounts" $root | nindent 12 }}
            - {name: keys, mountPath: {{ .path }}, readOnly: true}
            {{- if .targets }}
            - {name: targets, mountPath: /etc/leadtime/targets, readOnly: true}
            {{- end }}
      volumes:
        {{- include "leadtime.volumes" $root | nindent 8 }}
        - name: keys
          secret:
            secretName: {{ .secret.existingSecret | quote }}
            {{- with .secret.key }}
            items: [{key: {{ . | quote }}, path: {{ . | quote }}}]
            {{- end }}
        {{- if .targets }}
        - name: targets
          configMap: {name: {{ include "leadtime.fullname" $root }}-targets}
        {{- end }}
{{- end }}

{{/* The targets file. */}}
{{- define "leadtime.targets" -}}
{{- range .Values.targets }}
[[target]]
{{- range $field, $value := . }}
{{ $field }} = {{ $value | toJson }}
{{- end }}
{{ end }}
{{- end }}
