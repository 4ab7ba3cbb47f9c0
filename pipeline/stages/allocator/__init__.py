"""Stage 4: scenarios to plans and signed commands."""
