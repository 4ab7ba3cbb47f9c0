"""Azure as a provider: virtual machine scale sets, one an offer, set by absolute capacity and observed by polling.

`resources` names sets and reads what describes them and their instances, `integration` reads which are targets, `api`
makes requests, `codes` says what Azure's error codes mean, `marks` is the tag that a command leaves, `observation`
follows sets, `provider` applies commands, `checks` says what would hinder a command, `release` gives sets back and
`discovery` proposes targets. `api` and what imports it need the extra `leadtime[azure]`.
"""
