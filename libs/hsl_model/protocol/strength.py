"""Which secrets anybody could guess. Coordinator and hubs refuse the same ones, so that neither is the weak door."""

MIN_SECRET_LENGTH = 24  # shorter ones can be guessed over the network within the life of an alliance
MIN_DIFFERENT_SIGNS = 8
MAKE_ONE = "make one with `openssl rand -hex 24` (under compose, deploy/make-secrets.sh makes all)"
_WELL_KNOWN = (
    "changeme",
    "change-me",
    "change_me",
    "password",
    "secret",
    "admin",
    "default",
    "example",
    "token",
    "hsl",
)


def weakness(secret: str) -> str | None:
    """Why somebody else could know this one (too short, the words of examples, a pattern) and what to do, or None."""
    if len(secret) < MIN_SECRET_LENGTH:
        return f"at least {MIN_SECRET_LENGTH} characters are needed; {MAKE_ONE}"
    rest = secret.lower()
    for word in _WELL_KNOWN:
        rest = rest.replace(word, "")
    if len(set(rest)) < MIN_DIFFERENT_SIGNS:
        return f"this is a well-known default or a pattern, not a secret; {MAKE_ONE}"
    return None
