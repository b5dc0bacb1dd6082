"""What node agents say and ask: desired state, heartbeat, membership, announce, refusals, fusion, published files."""
