"""Public reports of misleading behaviour, one module each: the right values of their kind."""
