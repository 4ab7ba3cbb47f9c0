"""Ed25519 keys that sign commands, and keyed pseudonyms that replace user ids."""
