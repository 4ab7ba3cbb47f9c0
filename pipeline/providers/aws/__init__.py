"""AWS as a provider: auto scaling groups, one an offer, set by absolute desired capacity and observed by polling.

`resources` names groups and reads their descriptions, `integration` reads which are targets, `api` makes requests,
`marks` is the tag that a command leaves, `observation` follows groups, `notices` reads spot warnings, `provider`
applies commands, `victims` picks instances of a shrink, `checks` says what would hinder a command, `release` gives
groups back and `discovery` proposes targets. `api` and what imports it need boto3, the extra `leadtime[aws]`.
"""
