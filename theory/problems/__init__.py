"""The named problems, one TOML file each, and problems of one's own."""
