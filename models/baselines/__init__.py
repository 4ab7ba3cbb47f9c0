"""Baselines to compare with: autoscalers, forecasters and a pairwise purchase."""
