"""The HTTP face: Tinker's wire protocol over the store. The one place that knows HTTP.

The api holds no state of its own: any number of replicas may serve one store.
"""
