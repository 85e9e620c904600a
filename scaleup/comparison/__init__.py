"""Pictures compared: features, metrics, the sheet."""
