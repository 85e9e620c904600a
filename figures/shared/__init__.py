"""What figures share: laws, trained networks, references, results."""
