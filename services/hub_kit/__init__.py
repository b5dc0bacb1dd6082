"""What both hubs are made of: one folder, one admin API, one bearer token, the same logs."""
