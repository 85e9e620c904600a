"""The wrappers that are fitted."""
