"""What keeps a stage alive, exactly once, and observed."""
