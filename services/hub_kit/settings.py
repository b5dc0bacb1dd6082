"""What any hub demands of its settings."""

from pydantic import SecretStr


def strong(secret: SecretStr) -> SecretStr:
    """The coordinator refuses weak secrets by a longer list; here only what no generator would give."""
    value = secret.get_secret_value()
    if len(value) < 24 or len(set(value)) < 8:
        raise ValueError("too easy to guess; make one with `openssl rand -hex 24`, the same for hub and coordinator")
    return secret
