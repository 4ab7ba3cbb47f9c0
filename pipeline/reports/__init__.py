"""Pages, pictures and texts for people."""
