"""Kubernetes as a provider: floors of autoscalers, replicas of workloads and static node pools, observed by watch.

`resources` names what can be commanded, `integration` reads which of it is, `api` makes requests, `marks` is what we
leave on an object, `observation` follows objects, `provider` applies commands, `checks` says what would hinder it and
`release` gives targets back. `api` and what imports it need the client library, the extra `leadtime[kubernetes]`.
"""
