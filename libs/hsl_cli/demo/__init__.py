"""`hsl demo`: hub, coordinator and agents as separate processes on one machine, from nothing to a fused model."""
