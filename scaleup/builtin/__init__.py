"""The built-in model: a small pipeline of coloured shapes, its data and its verifier."""
