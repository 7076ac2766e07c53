"""TOML to checked settings."""
