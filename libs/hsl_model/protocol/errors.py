"""Errors that carry data: a stable code, an HTTP status for the services, and a sentence that says what to do.

The raw text of a foreign exception never goes on the wire; `HslError.sentence()` does.
"""

from typing import ClassVar


class HslError(Exception):
    """Base of every error of ours. Subclasses set `code`, `http_status`, `title` and a `template` with field names."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"
    template: ClassVar[str] = "An unexpected error occurred; see the log of this service."

    def __init__(self, **data: object) -> None:
        super().__init__(data)
        self.data = data

    def sentence(self) -> str:
        """What happened and what to do, in one or two sentences."""
        return self.template.format_map(_Missing(self.data))

    def __str__(self) -> str:
        return self.sentence()


class _Missing(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return f"<{key}>"


class IllegalTransitionError(HslError):
    code = "illegal_transition"
    http_status = 409
    title = "This move is not possible now"
    template = "Cannot go from {source} to {target}; look at the current state and try again."


class ManifestError(HslError):
    """A manifest that cannot be read, is not canonical, or whose signature does not fit the roster."""

    code = "manifest_invalid"
    http_status = 422
    title = "The manifest is not acceptable"
    template = "The manifest was refused: {reason}"


class RemotePathError(HslError):
    code = "remote_path_invalid"
    http_status = 422
    title = "Not a path of the hub layout"
    template = "{path!r} is not a path of the hub layout: {reason}"


class CheckpointError(HslError):
    """A tensor file that is not what its manifest, or the safetensors format, says."""

    code = "checkpoint_invalid"
    http_status = 422
    title = "The tensor file is not acceptable"
    template = "The tensor file {path} was refused: {reason}"


class ConfigError(HslError):
    code = "config_invalid"
    http_status = 422
    title = "The configuration is not acceptable"
    template = "{reason}"
