"""SFTPGo, the hub of a real alliance: prepared, started, looked after and restarted on request."""
