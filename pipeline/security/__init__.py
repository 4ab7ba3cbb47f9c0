"""Keys that sign commands, and pseudonyms that hide users."""
