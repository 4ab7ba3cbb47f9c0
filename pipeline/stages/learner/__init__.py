"""Stage 5, learner: plans to signed adjustments of the plans to come."""
