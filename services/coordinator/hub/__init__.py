"""How the coordinator manages the hub's nodes. It lists and deletes files there, and never reads one."""
