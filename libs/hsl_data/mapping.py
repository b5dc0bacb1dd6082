"""Which cases of a source take part, and with which label: by class name and domain, never by position."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hsl_data.binding import SiteBinding, check_fits
from hsl_data.cases import Case
from hsl_data.errors import ClassMissingError, DomainMissingError, UnmappedClassError
from hsl_model.protocol.config import TaskConfig


@dataclass(frozen=True)
class Selection:
    """Cases with their label (1: positive class), and how many were left out before any image was read."""

    cases: tuple[tuple[Case, int], ...]
    num_found: int
    num_ignored_class: int
    num_other_domain: int


def select_cases(cases: Iterable[Case], binding: SiteBinding, task: TaskConfig) -> Selection:
    check_fits(binding, task)
    found = list(cases)
    inside = _in_domains(found, binding)
    classes = Counter(case.site_class for case in inside)
    if unmapped := sorted(set(classes) - set(binding.classes) - set(binding.ignored_classes)):
        raise UnmappedClassError(classes=", ".join(f"{name!r} ({classes[name]} images)" for name in unmapped))
    if misnamed := sorted(set(binding.classes) - {case.site_class for case in found}):
        raise ClassMissingError(reason=_missing(misnamed, classes, binding))
    for task_class in (task.positive_class, task.negative_class):
        sources = sorted(name for name, target in binding.classes.items() if target == task_class)
        if not classes.keys() & set(sources):
            raise ClassMissingError(reason=_missing(sources, classes, binding))
    chosen = tuple(
        (case, int(binding.classes[case.site_class] == task.positive_class))
        for case in inside
        if case.site_class in binding.classes
    )
    return Selection(chosen, len(found), len(inside) - len(chosen), len(found) - len(inside))


def _in_domains(cases: list[Case], binding: SiteBinding) -> list[Case]:
    if not binding.domains:
        return cases
    found = {case.domain for case in cases if case.domain is not None}
    if missing := sorted(set(binding.domains) - found):
        raise DomainMissingError(domains=", ".join(missing), found=", ".join(sorted(found)) or "no domains at all")
    return [case for case in cases if case.domain in binding.domains]


def _missing(missing: list[str], classes: Counter[str], binding: SiteBinding) -> str:
    where = f" in domain(s) {', '.join(binding.domains)}" if binding.domains else ""
    found = ", ".join(f"{name!r} ({count})" for name, count in sorted(classes.items())) or "none"
    return (
        f"No case of class {', '.join(map(repr, missing))}{where}; found: {found}. "
        "Correct the class names of the binding, or add such cases."
    )
