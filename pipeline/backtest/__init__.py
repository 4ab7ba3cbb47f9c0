"""The stream's own functions over a window of the past, beside baselines."""
