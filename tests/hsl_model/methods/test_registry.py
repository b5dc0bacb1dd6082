import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from hsl_model.methods import load, method_class
from hsl_model.methods.base import Method
from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_fields_are_the_options_of_the_registry_with_the_same_defaults(name: str) -> None:
    found = {field.name: field.default for field in fields(method_class(name))}
    assert found == {option: rule.default for option, rule in METHODS[name].options.items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_frozen_plug_in_and_no_other_method_s_child(name: str) -> None:
    assert method_class(name).__bases__ == (Method,)
    with pytest.raises(FrozenInstanceError):
        load(name, {}).anything = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_where_it_comes_from(name: str) -> None:
    module = sys.modules[method_class(name).__module__]
    assert module.__doc__ is not None
    assert "methods.md" in module.__doc__


def test_options_reach_the_method() -> None:
    assert load("fedprox", {"mu": 1}) == method_class("fedprox")(mu=1.0)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="nu"):
        load("fedprox", {"nu": 1})
    with pytest.raises(ConfigError, match="unknown method"):
        load("fedmagic", {})


def test_the_registry_and_the_package_do_not_import_torch() -> None:
    code = "import hsl_model.methods, hsl_model.protocol.methods, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
