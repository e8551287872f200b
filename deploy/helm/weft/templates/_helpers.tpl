{{/* Labels of every object. */}}
{{- define "weft.labels" -}}
{{ include "weft.selectorLabels" . }}
app.kubernetes.io/part-of: weft
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels that select the pods of `weft control`; they never change. */}}
{{- define "weft.selectorLabels" -}}
app.kubernetes.io/name: weft
app.kubernetes.io/component: control
{{- end -}}

{{/* The image: a digest wins over the tag. */}}
{{- define "weft.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What `weft control` reads as config.yaml, as JSON. */}}
{{- define "weft.config" -}}
{{- dict
  "trustDomain" .Values.trustDomain
  "clusterDomain" .Values.clusterDomain
  "ca" .Values.ca
  "drainPeriod" (printf "%ds" (int .Values.control.drainSeconds))
  "webhook" .Values.webhook
  "injector" (dict
    "image" (include "weft.image" .)
    "imagePullPolicy" .Values.image.pullPolicy
    "nativeSidecar" .Values.injector.nativeSidecar
    "resources" .Values.injector.resources
    "initResources" .Values.injector.initResources)
  "controller" .Values.controller
  "mesh" .Values.mesh
  "proxy" .Values.proxy
  "telemetry" .Values.control.telemetry
  | toRawJson -}}
{{- end -}}

{{/* Container security: nothing that the `restricted` Pod Security level forbids. */}}
{{- define "weft.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "weft.podSecurity" -}}
runAsNonRoot: true
runAsUser: 2102
runAsGroup: 2102
seccompProfile:
  type: RuntimeDefault
{{- end -}}
