"""The stages' functions over a window of the past, beside baselines, on simulated capacity."""
