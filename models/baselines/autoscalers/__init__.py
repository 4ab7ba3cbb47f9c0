"""Autoscaling policies to compare with, each as documented by its product, behind one interface (`base`).

A policy is made with `Facts` and the values of its knob, the number that by the product's documentation sets how much
capacity is kept free; it then decides for all apps at all of these values, tick by tick:

    policy = HorizontalPodAutoscaler(facts, np.array([0.9, 0.8, 0.5]))
    wanted = policy.decide(row, ready)      # (setting, app) replicas, from (setting, app) that are ready

It uses nothing after `row`, draws no random numbers, and takes the rows before its first decision as history.
`models.baselines.autoscalers.registry` lists all, with knobs, defaults and sweeps.
"""
