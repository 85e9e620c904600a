"""Second routes of what the released code does."""
