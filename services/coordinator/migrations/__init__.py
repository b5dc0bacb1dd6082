"""The schema's history. `upgrade.upgrade_database` runs it at every start; to add a step see docs/architecture.md."""
