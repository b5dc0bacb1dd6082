"""What an administrator may set for the agent of one site; environment variables `HSL_NODE_*`."""

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from hsl_model.protocol.retry import RetryPolicy


class NodeSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="HSL_NODE_", frozen=True, extra="forbid", hide_input_in_errors=True, env_ignore_empty=True
    )

    workdir: Path = Field(description="everything the agent keeps; one agent per folder")
    coordinator_url: str | None = Field(default=None, description="None: the one it enrolled with")
    coordinator_ca_file: Path | None = Field(
        default=None, description="PEM: the alliance's authority, or the coordinator's certificate; None: public ones"
    )
    device: Literal["cpu", "cuda"] = "cpu"
    num_threads: int = Field(default=1, ge=1, description="of the training child")
    snapshot_every_steps: int = Field(default=50, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=2, description="splits batches on a small device; recorded")
    channels_last: bool = Field(default=False, description="the memory format of a GPU's tensor cores")
    compiled: bool = Field(default=False, description="torch.compile: minutes once for each training child")
    cache_on_device: bool = Field(default=False, description="the site's images in the GPU's memory, where they fit")
    site_host: str = Field(default="127.0.0.1", description="the site API never leaves the machine by default")
    site_port: int = Field(default=0, ge=0, le=65535, description="0: any free one; site.json names it")
    trainer_command: tuple[str, ...] = (sys.executable, "-m", "node_agent.trainer.child")
    # A proxy that cuts idle connections after 30 s would end every long poll; 25 s stays below it.
    poll_wait_s: float = Field(default=25.0, ge=0, le=55)
    # The coordinator calls a node late after 90 s without contact; a quarter of that survives three lost messages.
    heartbeat_interval_s: float = Field(default=20.0, gt=0)
    # The longest pause between two tries: after a night's VPN drop the site is back within half a minute.
    retry_cap_s: float = Field(default=RetryPolicy.cap_s, gt=0)
    # A training child that hangs (a driver, a dead disk) would hold the round for ever; it is replaced instead.
    training_stall_s: float = Field(default=900.0, gt=0)
    # Transfers must not take the line that the clinic works with. Below 16 KiB/s a model would take hours.
    max_upload_bytes_per_s: int | None = Field(default=None, ge=16_384, description="None: as fast as the line is")
    max_download_bytes_per_s: int | None = Field(default=None, ge=16_384, description="None: as fast as the line is")
    proxy_url: SecretStr | None = Field(
        default=None, description="http://user:password@host:port; None: HTTPS_PROXY and NO_PROXY as for other programs"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("proxy_url", mode="before")
    @classmethod
    def _empty_is_none(cls, given: object) -> object:
        """A compose file that passes a variable on passes it on empty."""
        return given or None

    @property
    def keys_folder(self) -> Path:
        return self.workdir / "keys"

    @property
    def journal_path(self) -> Path:
        return self.workdir / "journal.sqlite"

    @property
    def bindings_folder(self) -> Path:
        return self.workdir / "bindings"

    @property
    def site_file(self) -> Path:
        """Where the site API says how to reach it: address and token, readable by the owner only."""
        return self.workdir / "site.json"

    @property
    def cache_folder(self) -> Path:
        return self.workdir / "cache"

    def run_folder(self, run_id: str) -> Path:
        return self.workdir / "runs" / run_id

    def round_folder(self, run_id: str, round_number: int) -> Path:
        """The workspace of one round: snapshot, results, manifests. Gone after the round is adopted."""
        return self.run_folder(run_id) / f"round-{round_number:04d}"

    def model_folder(self, run_id: str) -> Path:
        """What `hsl predict --model` reads: `model.json` and the files it names."""
        return self.workdir / "models" / run_id
