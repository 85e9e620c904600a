"""The ledger as documents."""
