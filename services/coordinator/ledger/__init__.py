"""Which ledger this is, whether it was restored from an old copy, and how it is completed from what the sites know."""
