"""The truth report: what a site's data really are, before anything is trained on them.

It is made for the site's own people and stays there, names of images included; only `counts()` is sent, when the site
accepts a run. Everything found is accounted for: num_found = used + all that is not used, each with its reason.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from hsl_data.split import SPLITS, Split
from hsl_model.protocol.config import Message, TaskConfig
from hsl_model.protocol.messages import ClassCounts, TruthCounts

Reason = Literal["ignored_class", "other_domain", "unreadable", "duplicate", "conflicting", "in_sat", "over_max_cases"]
REASONS: dict[Reason, str] = {
    "ignored_class": "class ignored by the binding",
    "other_domain": "outside the chosen domains",
    "unreadable": "unreadable",
    "duplicate": "copies of another image (same pixels, same label; one is kept)",
    "conflicting": "same pixels under different labels (nobody knows which is right; all dropped)",
    "in_sat": "leaking: same pixels as an image of the SAT",
    "over_max_cases": "beyond max_cases",
}
NO_DOMAIN = "(none)"


class NotUsedCase(Message):
    name: str
    reason: Reason
    detail: str = ""


class DomainCounts(Message):
    domain: str
    splits: dict[Split, ClassCounts]


class TruthReport(Message):
    task: TaskConfig
    source: str = Field(description="reader and name of the source")
    num_found: int
    splits: dict[Split, ClassCounts]
    site_classes: dict[str, int] = Field(description="used images by the site's own class names")
    domains: tuple[DomainCounts, ...]
    not_used: dict[Reason, int]
    skipped: dict[str, int] = Field(default_factory=dict, description="files and rows that are no images, by reason")
    not_used_cases: tuple[NotUsedCase, ...] = Field(description="by name; without ignored classes and other domains")
    num_groups: int
    num_patients_known: int = Field(description="used images whose patient the source names")
    num_near_copies: int = Field(description="used images kept in one split because another looks nearly the same")
    num_crossing_source: int = Field(description="images whose group the publisher's own split tears apart")
    num_resized: int = Field(description="images that did not have the task's size")
    sat_digest: str | None = None
    num_sat: int = 0

    @property
    def num_used(self) -> int:
        return sum(counts.positive + counts.negative for counts in self.splits.values())

    def counts(self) -> TruthCounts:
        """The numbers that leave the house with the site's acceptance of a run."""
        return TruthCounts(
            training=self.splits["training"],
            validation=self.splits["validation"],
            test=self.splits["test"],
            num_unreadable=self.not_used["unreadable"],
            num_duplicates=self.not_used["duplicate"],
            num_conflicting=self.not_used["conflicting"],
        )

    def warnings(self) -> tuple[str, ...]:
        """What a person should know before accepting."""
        found = []
        for split, counts in self.splits.items():
            for name, count in (
                (self.task.positive_class, counts.positive),
                (self.task.negative_class, counts.negative),
            ):
                if count == 0:
                    found.append(f"{split} holds no {name}: its AUC is undefined.")
                elif count < 10 and split != "training":
                    found.append(
                        f"{split} holds only {count} {name}: one image moves its AUC by up to {1 / count:.2f}."
                    )
        if self.num_crossing_source:
            found.append(
                f"{self.num_crossing_source} images would leak between the parts of the publisher's own split, "
                "which is therefore not followed."
            )
        if self.num_patients_known < self.num_used:
            found.append(
                f"the patient of {self.num_used - self.num_patients_known} images is unknown: images of one patient "
                "that do not look alike may lie in different splits."
            )
        return tuple(found)

    def lines(self) -> list[str]:
        task = self.task
        lines = [
            f"Truth report: {self.source}, task {task.task_id} ({task.positive_class} / {task.negative_class})",
            f"{self.num_found} images found, {self.num_used} used in {self.num_groups} groups"
            f" ({self.num_near_copies} kept together as near copies, {self.num_resized} resized)",
            "",
            *_table(task, self.splits, self.domains),
            "",
            "used by class of this site: " + ", ".join(f"{name} {n}" for name, n in self.site_classes.items()),
        ]
        lines += [f"not used: {count} {REASONS[reason]}" for reason, count in self.not_used.items() if count]
        lines += [f"not read: {count} {reason}" for reason, count in self.skipped.items()]
        lines += [f"  {case.name}: {case.detail}" for case in self.not_used_cases if case.reason == "unreadable"]
        if self.sat_digest is not None:
            lines.append(f"SAT {self.sat_digest[:12]}: {self.num_sat} images, digest as declared")
        return lines + [f"note: {warning}" for warning in self.warnings()]


def _table(task: TaskConfig, splits: dict[Split, ClassCounts], domains: Sequence[DomainCounts]) -> list[str]:
    """Rows: all, then each domain. Columns: per split the two classes."""
    width = max(8, *(len(line.domain) for line in domains)) if domains else 8
    cell = max(len(task.positive_class), len(task.negative_class), 6)
    rows: list[tuple[str, dict[Split, ClassCounts]]] = [("all", splits)]
    if len(domains) > 1 or (domains and domains[0].domain != NO_DOMAIN):
        rows += [(line.domain, line.splits) for line in domains]
    heads = "  ".join(f"{split:^{2 * cell + 1}}" for split in SPLITS)
    names = "  ".join(f"{task.positive_class:>{cell}} {task.negative_class:>{cell}}" for _ in SPLITS)
    lines = [f"{'':{width}}  {heads}".rstrip(), f"{'domain':{width}}  {names}"]
    for name, counts in rows:
        cells = (f"{counts[split].positive:>{cell}} {counts[split].negative:>{cell}}" for split in SPLITS)
        lines.append(f"{name:{width}}  " + "  ".join(cells))
    return lines
