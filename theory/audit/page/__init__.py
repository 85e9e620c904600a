"""What the audit draws."""
