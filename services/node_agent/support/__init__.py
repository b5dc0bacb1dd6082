"""What a site hands to whoever helps it: `hsl node support-bundle`.

Nothing is copied and then cleaned. Each part is built anew from fields that are named one by one, so what nobody
thought of stays at home: no image, file name, path, label or patient, no token, key or password, and no text but that
of `hsl node check`, which looks at machines only.

    bundle.py   which parts there are and why; one archive, always the same bytes for the same state
    parts.py    versions, settings, journal, egress ledger, disk
    logs.py     the agent's log, reduced to what the agent itself says
"""
