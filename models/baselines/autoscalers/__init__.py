"""The autoscaling policies that we compare with, each true to its documentation, behind one interface (`base`).

A policy is made with `Facts` and the values of its knob, the number by which the product's documentation says how much
is kept free; it then answers for all apps at all of these values, tick by tick:

    policy = HorizontalPodAutoscaler(facts, np.array([0.9, 0.8, 0.5]))
    wanted = policy.decide(row, ready)      # (setting, app) replicas, from (setting, app) that are ready

It looks at nothing after `row`, draws no random numbers, and takes the rows before its first decision as history.
`models.baselines.autoscalers.registry` lists all, with knobs, defaults and sweeps.
"""
