"""Pictures that were drawn, as files and records."""
