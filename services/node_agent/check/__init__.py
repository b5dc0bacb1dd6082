"""Will it do here? What `hsl node check` looks at, before joining and after; one module per concern.

    coordinator   name ─> proxy ─> port ─> certificate ─> does it answer? ─> clock (its Date) and where the hub is
    hub           name ─> proxy ─> port ─> host key ─> [enrolled] one file up, down and away again
    here          one real training batch, disk for the rounds ahead
    at the end    how long a round will take

Each check returns a `Finding`: one line with an outcome, a cause, and what to ask the firewall team for. What builds on
a failed check is not checked, so that one cause gives one failure. Nothing hangs: every wait is bounded by progress.
"""
