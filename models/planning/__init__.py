"""From scenarios to a plan: need, purchase and guard rails."""
