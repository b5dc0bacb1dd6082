from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from hsl_data.cases import Case
from hsl_data.errors import ClassMappingError, ClassMissingError, DomainMissingError, UnmappedClassError
from hsl_data.mapping import Selection, select_cases
from hsl_model.protocol.errors import HslError
from tests.hsl_data.helpers import TASK, bind


def never() -> Image.Image:
    raise AssertionError("choosing cases must not decode them")


def case(name: str, site_class: str, domain: str | None = None) -> Case:
    return Case(name=name, site_class=site_class, load=never, domain=domain)


CASES = [
    case("a", "pos", "hand"),
    case("b", "neg", "hand"),
    case("c", "neg", "leg"),
    case("d", "open", "leg"),
    case("e", "implant", "leg"),
]


def select(**binding: Any) -> Selection:
    chosen = {"classes": {"pos": "broken", "open": "broken", "neg": "whole"}, "ignored_classes": ("implant",)}
    return select_cases(CASES, bind(Path("x.npz"), **{**chosen, **binding}), TASK)


def refused(error: type[HslError], **binding: Any) -> str:
    with pytest.raises(error) as caught:
        select(**binding)
    assert caught.value.http_status == 422
    return caught.value.sentence()


def test_classes_are_mapped_by_name_many_to_one() -> None:
    found = select()
    assert [(case.name, label) for case, label in found.cases] == [("a", 1), ("b", 0), ("c", 0), ("d", 1)]
    assert (found.num_found, found.num_ignored_class, found.num_other_domain) == (5, 1, 0)


def test_domains_choose_cases_before_classes_are_checked() -> None:
    found = select(domains=("hand",), ignored_classes=())
    assert [case.name for case, _ in found.cases] == ["a", "b"]
    assert (found.num_ignored_class, found.num_other_domain) == (0, 3)


def test_an_unmapped_class_is_named_with_its_count() -> None:
    assert "'implant' (1 images)" in refused(UnmappedClassError, ignored_classes=())


def test_a_misnamed_class_is_named_with_what_was_found() -> None:
    classes = {"pos": "broken", "open": "broken", "neg": "whole", "negative": "whole"}
    said = refused(ClassMissingError, classes=classes)
    assert "No case of class 'negative'" in said
    assert "'neg' (2)" in said


def test_a_task_class_without_cases_in_the_chosen_domains_is_missing() -> None:
    cases = [case("a", "pos", "hand"), case("b", "neg", "hand"), case("c", "neg", "leg")]
    with pytest.raises(ClassMissingError, match=r"No case of class 'pos' in domain\(s\) leg; found: 'neg' \(1\)"):
        select_cases(cases, bind(Path("x.npz"), domains=("leg",)), TASK)


def test_a_source_without_cases_is_a_missing_class() -> None:
    with pytest.raises(ClassMissingError, match="found: none"):
        select_cases([], bind(Path("x.npz")), TASK)


def test_an_unknown_domain_is_named_with_those_that_exist() -> None:
    assert "has domain foot. The source has: hand, leg." in refused(DomainMissingError, domains=("foot", "hand"))
    with pytest.raises(DomainMissingError, match="no domains at all"):
        select_cases([case("a", "pos"), case("b", "neg")], bind(Path("x.npz"), domains=("hand",)), TASK)


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ({"classes": {"pos": "broken", "neg": "healthy"}}, "'neg' is mapped to 'healthy'"),
        ({"classes": {"pos": "1", "neg": "0"}}, "the task's classes are 'broken', 'whole'"),
        ({"classes": {"neg": "whole"}}, "no class of this site is mapped to 'broken'"),
        ({"classes": {"pos": "broken", "neg": "broken"}}, "no class of this site is mapped to 'whole'"),
        ({"task_id": "pneumonia"}, "written for task pneumonia"),
    ],
)
def test_a_mapping_that_does_not_fit_the_task_is_refused(binding: dict[str, Any], said: str) -> None:
    assert said in refused(ClassMappingError, **binding)


@pytest.mark.parametrize(
    "binding",
    [
        {"classes": {}},
        {"classes": {"pos": 1, "neg": 0}},
        {"ignored_classes": ("pos",)},
        {"image_root": "/images"},
        {"reader": "tiff"},
        {"max_unreadable_share": 1.5},
        {"max_cases": 1},
        {"split_seed": -1},
        {"clases": {}},
    ],
)
def test_a_binding_that_makes_no_sense_is_refused(binding: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        bind(Path("x.npz"), **binding)
