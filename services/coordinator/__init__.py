"""The alliance's ledger: runs, rounds, nodes and events behind REST. It never sees an image or a weight."""
