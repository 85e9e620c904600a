"""What users read: every block runs, every link leads somewhere."""
