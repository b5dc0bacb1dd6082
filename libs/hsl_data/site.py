"""A site's data, from its own folders to the arrays the engine trains on.

    read -> choose (classes, domains) -> decode once -> drop copies -> group -> split -> memory-mapped cache + report

Nothing of it leaves the house but `TruthReport.counts()`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hsl_data.arrange import Arrangement, arrange
from hsl_data.binding import SiteBinding, check_fits
from hsl_data.cache import CacheSlot
from hsl_data.cases import Reader
from hsl_data.decode import Decoded, Scratch, decode_cases, pixel_digest
from hsl_data.duplicates import DecodedCase
from hsl_data.mapping import Selection, select_cases
from hsl_data.readers import open_reader
from hsl_data.report import NO_DOMAIN, REASONS, DomainCounts, NotUsedCase, TruthReport
from hsl_data.sat import load_task_sat
from hsl_data.split import Split
from hsl_model.data import ImageSet, SiteData
from hsl_model.protocol.config import TaskConfig
from hsl_model.protocol.messages import ClassCounts

__all__ = ["PreparedSite", "SiteBinding", "prepare_site"]


@dataclass(frozen=True)
class PreparedSite:
    """`listing`: a CSV of every image, in the order of the splits' arrays: split, name, label, domain, group, and the
    part its publisher put it in."""

    data: SiteData
    report: TruthReport
    listing: Path


def prepare_site(
    binding: SiteBinding, task: TaskConfig, sat: Path | None, sat_digest: str | None, cache: Path
) -> PreparedSite:
    """Split data and truth report; a second call with nothing changed maps the cache instead of decoding.

    `sat_digest` is the run's: None means the run has no SAT, and `sat` is then not read. Images that also lie in the
    SAT are not used. Raises the errors of `hsl_data.errors`.
    """
    check_fits(binding, task)
    anchors = load_task_sat(sat, sat_digest, task)
    reader = open_reader(binding)
    slot = CacheSlot(cache, binding, task, (sat_digest, reader.facts()))
    with slot.lock():
        found = slot.load()
        if found is None:
            _build(slot, reader, binding, task, anchors)
            found = slot.load()
    if found is None:
        raise OSError(f"{slot.folder} is not as it was just written; check the disk")
    splits, report = found
    data = SiteData(training=splits["training"], validation=splits["validation"], test=splits["test"], sat=anchors)
    return PreparedSite(data, _with_sat(report, anchors, sat_digest), slot.listing)


def _build(slot: CacheSlot, reader: Reader, binding: SiteBinding, task: TaskConfig, sat: ImageSet | None) -> None:
    selection = select_cases(reader.cases(), binding, task)
    with Scratch(slot.begin() / "scratch", task) as scratch:
        decoded = decode_cases(selection.cases, task, scratch)
        decoded.check_budget(binding.max_unreadable_share)
        sat_digests = frozenset() if sat is None else frozenset(map(pixel_digest, sat.images))
        arrangement = arrange(decoded.cases, binding, task, sat_digests)
        report = _report(selection, decoded, arrangement, binding, task)
        slot.finish(arrangement, scratch, report.model_copy(update={"skipped": dict(reader.skipped())}))


def _report(
    selection: Selection, decoded: Decoded, arrangement: Arrangement, binding: SiteBinding, task: TaskConfig
) -> TruthReport:
    used = [case for cases in arrangement.splits.values() for case in cases]
    unreadable = [NotUsedCase(name=name, reason="unreadable", detail=why) for name, why in decoded.unreadable]
    not_used = (*unreadable, *arrangement.dropped)
    counted = Counter(case.reason for case in not_used)
    counted["ignored_class"] = selection.num_ignored_class
    counted["other_domain"] = selection.num_other_domain
    return TruthReport(
        task=task,
        source=f"{binding.reader} {binding.path.name}",
        num_found=selection.num_found,
        splits=_class_counts(arrangement),
        site_classes=dict(sorted(Counter(case.site_class for case in used).items())),
        domains=tuple(
            DomainCounts(domain=domain, splits=_class_counts(arrangement, domain))
            for domain in sorted({case.domain or NO_DOMAIN for case in used})
        ),
        not_used={reason: counted[reason] for reason in REASONS},
        not_used_cases=not_used,
        num_groups=len({arrangement.groups[case.row] for case in used}),
        num_patients_known=sum(case.group is not None for case in used),
        num_near_copies=arrangement.num_near_copies,
        num_crossing_source=arrangement.num_crossing_source,
        num_resized=decoded.num_resized,
    )


def _class_counts(arrangement: Arrangement, domain: str | None = None) -> dict[Split, ClassCounts]:
    return {
        split: _count(case for case in cases if domain is None or (case.domain or NO_DOMAIN) == domain)
        for split, cases in arrangement.splits.items()
    }


def _count(cases: Iterable[DecodedCase]) -> ClassCounts:
    labels = Counter(case.label for case in cases)
    return ClassCounts(positive=labels[1], negative=labels[0])


def _with_sat(report: TruthReport, sat: ImageSet | None, digest: str | None) -> TruthReport:
    return report if sat is None else report.model_copy(update={"sat_digest": digest, "num_sat": len(sat)})
