"""The learner: settings of plans that cost less for the same promise, judged on the demand that came."""
