"""GCP as a provider: managed instance groups, zonal and regional, one an offer, set by absolute size and polled.

`resources` names groups and reads what their descriptions say, `integration` reads which are targets, `api` makes
requests, `marks` is what a command leaves in a group's description, `observation` follows groups, `provider` applies
commands, `checks` says what would hinder a command, `release` gives groups back and `discovery` proposes targets. `api`
and what imports it need google-cloud-compute, the extra `leadtime[gcp]`.
"""
