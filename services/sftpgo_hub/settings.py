"""What an administrator may set for the SFTPGo hub; environment variables `HSL_HUB_*`, as for the embedded one."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from hub_kit.settings import strong

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a server that listens everywhere is asked
LOOPBACK = ("127.0.0.1/32", "::1/128")
MAX_SECRET_BYTES = 72  # it is also a password of SFTPGo's, whose bcrypt takes no more


def _fits(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode()) > MAX_SECRET_BYTES:
        raise ValueError(f"longer than {MAX_SECRET_BYTES} bytes; make one with `openssl rand -hex 24`")
    return secret


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


class HubSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="HSL_HUB_", frozen=True, extra="forbid", hide_input_in_errors=True, env_ignore_empty=True
    )

    # Absolute, since SFTPGo runs in a folder of its own and is told where its files are.
    root: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        description="everything the hub keeps; one hub per folder"
    )
    host: str = Field(default="127.0.0.1", description="address the SFTP server listens on")
    port: int = Field(default=2022, ge=1, le=65535)
    public_host: str | None = Field(default=None, description="what nodes connect to; None: `host`")
    # Whoever reaches the admin API or REST can cut every node: loopback, or a network of hub and coordinator alone.
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(default=2080, ge=0, le=65535, description="0: any free one; hub.json names it")
    admin_token: Annotated[SecretStr, AfterValidator(strong), AfterValidator(_fits)]
    rest_port: int = Field(default=2081, ge=1, le=65535, description="SFTPGo's REST API, on `admin_host`")
    metrics_host: str = Field(default="127.0.0.1", description="another one only where Prometheus is elsewhere")
    metrics_port: int = Field(default=2082, ge=1, le=65535, description="/metrics and /healthz, without a login")
    coordinator_addresses: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=LOOPBACK, min_length=1, description="networks that may use REST, and that are never banned"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _can_be_found(self) -> Self:
        if self.public_host is None and self.host in ANYWHERE:
            raise ValueError(
                f"nodes cannot connect to {self.host}: set HSL_HUB_PUBLIC_HOST (under compose: HSL_DOMAIN)"
            )
        return self

    @property
    def files_folder(self) -> Path:
        """What nodes see as `/`."""
        return self.root / "files"

    @property
    def server_folder(self) -> Path:
        """SFTPGo's own: database, host key, what it is told at its start."""
        return self.root / "sftpgo"

    @property
    def host_key_file(self) -> Path:
        return self.server_folder / "host_ed25519"

    @property
    def provision_file(self) -> Path:
        return self.server_folder / "provision.json"

    @property
    def templates_folder(self) -> Path:
        return self.server_folder / "templates"

    @property
    def ready_file(self) -> Path:
        """Written when SFTPGo and the admin API answer: how to reach them."""
        return self.root / "hub.json"
