"""Stage 4, allocator: scenarios to plans and signed commands."""
