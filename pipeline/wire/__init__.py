"""Records as bytes, as arrays, and as what the mathematics takes."""
