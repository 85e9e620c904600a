"""What a claim is, and how it is measured, searched and put on record."""
