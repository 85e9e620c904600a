"""The named problems, one TOML file each, and your own."""
