"""Stage 5, actuator: signed commands to provider calls, their results, and observed capacity."""
