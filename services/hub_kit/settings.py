"""What any hub demands of its settings."""

from pydantic import SecretStr

from hsl_model.protocol.strength import weakness


def strong(secret: SecretStr) -> SecretStr:
    if reason := weakness(secret.get_secret_value()):
        raise ValueError(f"{reason}; the same for hub and coordinator")
    return secret
