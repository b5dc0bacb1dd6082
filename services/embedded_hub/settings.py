"""What an administrator may set for the embedded hub; environment variables `HSL_HUB_*`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from hub_kit.settings import strong

ADMIN_HOST = "127.0.0.1"  # whoever reaches the admin API can read and cut every node: it never leaves the machine


class HubSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="HSL_HUB_", frozen=True, extra="forbid", hide_input_in_errors=True)

    root: Path = Field(description="everything the hub keeps; one hub per folder")
    host: str = Field(default="127.0.0.1", description="address the SFTP server listens on")
    port: int = Field(default=2022, ge=0, le=65535, description="0: any free one; hub.json names it")
    public_host: str | None = Field(default=None, description="what nodes connect to; None: `host`")
    admin_port: int = Field(default=2080, ge=0, le=65535, description="loopback only; 0: any free one")
    admin_token: Annotated[SecretStr, AfterValidator(strong)]
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def files_folder(self) -> Path:
        """What nodes see as `/`."""
        return self.root / "files"

    @property
    def users_file(self) -> Path:
        return self.root / "users.json"

    @property
    def host_key_file(self) -> Path:
        return self.root / "host_ed25519"

    @property
    def ready_file(self) -> Path:
        """Written when both ports listen: how to reach them."""
        return self.root / "hub.json"
