"""Hospitals: created with a one-time code, enrolled, watched, revoked."""
