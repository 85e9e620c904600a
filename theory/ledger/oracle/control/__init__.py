"""Second routes of control: values, chains, linear processes."""
