"""What an alliance may set for its coordinator; environment variables `HSL_COORDINATOR_*`.

A secret may also be a file of that name in the folder `HSL_SECRETS_FOLDER`: more programs see the environment of a
process than a file.
"""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url

from hsl_model.protocol.strength import MAKE_ONE, weakness

PREFIX = "HSL_COORDINATOR_"
DEFAULT_DATABASE_URL = "sqlite:///coordinator.db"


def _strong(secret: SecretStr) -> SecretStr:
    if reason := weakness(secret.get_secret_value()):
        raise ValueError(reason)
    return secret


def _strong_password(url: str) -> str:
    """A password in the address is a secret like the others. Without one: a socket, a certificate, a password file."""
    password = None if url.startswith("sqlite") else make_url(url).password
    if password:
        _strong(SecretStr(str(password)))
    return url


Secret = Annotated[SecretStr, AfterValidator(_strong)]
Network = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]  # as SFTPGo spells it


class CoordinatorSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: Annotated[str, AfterValidator(_strong_password)] = Field(
        default=DEFAULT_DATABASE_URL,
        pattern=r"^(sqlite:///[^:]|postgresql(\+psycopg)?://)",
        description="SQLite file (relative: below workdir), or postgresql://user:password@host/database",
        repr=False,
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8070, ge=1, le=65535)
    admin_token: Secret
    alliance: str = Field(default="HeteroSync alliance", min_length=1, max_length=120)
    hub_kind: Literal["embedded", "sftpgo"] = "embedded"
    hub_admin_url: str = Field(pattern=r"^https?://", description="the hub's admin API; the hub writes it to hub.json")
    hub_admin_token: Secret
    # SFTPGo only. A site's newest and best models, its updates and its parts: a few hundred files of 100 MB.
    hub_quota_bytes: int = Field(default=50 << 30, ge=0, description="of each node's folder; 0: no quota")
    hub_allowed_addresses: dict[str, tuple[Network, ...]] = Field(
        default={},
        description='SFTPGo only: where nodes may log in from, {"site-1": ["192.0.2.0/24"]}; others anywhere',
    )
    # How late a deadline may be noticed; what a message decides (the last announce) does not wait for it.
    tick_interval_s: float = Field(default=1.0, gt=0)
    # Four missed heartbeats: one lost message must not alarm anybody.
    late_after_s: float = Field(default=90.0, gt=0)
    lost_after_s: float = Field(default=300.0, gt=0)
    # A code that lies in a mailbox for longer than a week is more likely found by somebody else than used.
    code_lifetime_s: float = Field(default=7 * 86400.0, gt=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    workdir: Path = Path()

    @property
    def resolved_database_url(self) -> str:
        return resolved_url(self.database_url, self.workdir)


def resolved_url(database_url: str, workdir: Path) -> str:
    """A relative SQLite file lies below the working folder, wherever the process was started."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(workdir / url.database))
    return url.render_as_string(hide_password=False)


def explain(error: ValidationError) -> str:
    """The settings that are wrong, one a line, by the names of their environment variables and without values."""
    lines = ["The coordinator cannot start with these settings:"]
    for entry in error.errors(include_input=False, include_url=False):
        name = PREFIX + "_".join(map(str, entry["loc"])).upper()
        reason = "is not set" if entry["type"] == "missing" else str(entry["msg"]).removeprefix("Value error, ")
        needs_secret = entry["type"] == "missing" and name.endswith("_TOKEN")
        lines.append(f"  {name}: {reason}{'; ' + MAKE_ONE if needs_secret else ''}")
    return "\n".join(lines)
