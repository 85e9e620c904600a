"""Where the ledger's claims are tried: domains of problems, atoms, couplings."""
