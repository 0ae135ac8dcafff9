"""An Argo executor plugin: steps that only talk to the service, without a pod for each.

A sidecar of the agent pod, which Argo starts once for a workflow. Argo asks it over HTTP to
execute a template, again and again until the step has ended.
"""
