"""The learning methods. `load` imports one, and torch with it, only when asked; the registry is torch-free."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hsl_model.protocol.methods import OptionValue, checked_options

if TYPE_CHECKING:
    from hsl_model.methods.base import Method


def method_class(name: str) -> type[Method]:
    """The one `Method` that `hsl_model/methods/<name>.py` defines."""
    from hsl_model.methods.base import Method

    module = importlib.import_module(f"hsl_model.methods.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one Method, found {len(found)}")
    return found[0]


def load(name: str, options: Mapping[str, OptionValue]) -> Method:
    """The method with these hyper-parameters, the rest at their defaults. Raises `ConfigError` for an unknown one."""
    checked = checked_options(name, options)
    return method_class(name)(**checked)
