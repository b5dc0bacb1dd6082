"""What every endpoint uses: the session, who is speaking, problems, pages, guarded moves. Knows no domain."""
