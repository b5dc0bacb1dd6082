"""Make several sites of one packaged archive, as unlike as hospitals are: other domains, another label mix.

1. Units are the domains (body regions, devices, views). A domain that holds one class only is left out, because knowing
   it would mean knowing the label. With too few units for the sites, the one with most images of its rarer class is
   halved by groups until there are enough. Each goes to the site with the fewest images, the largest first; domains
   with hardly any images of a class come last, so that none has to be a site of its own.
2. A group (patient, or images that look alike) whose images would lie at several sites stays where most of them are.
3. The sites keep shares of the positive class spread evenly from 20 to 50 percent, in the order of their own shares:
   the class in excess is thinned out by whole groups.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsl_data.decode import pixel_digest
from hsl_data.duplicates import DecodedCase, find_groups, visual_hash
from hsl_data.errors import SourceError
from hsl_data.readers.npz import NpzContent, read_npz, write_npz
from hsl_data.report import NO_DOMAIN
from hsl_data.split import Counts, keyed_number, take_groups

_LOWEST_PERCENT, _HIGHEST_PERCENT = 20, 50
_MIN_PER_UNIT = 30  # of the rarer class, before thinning out
_MIN_PER_CLASS = 10  # a smaller class would leave a site nothing to validate and test on

Unit = list[int]  # positions of images


@dataclass(frozen=True)
class DomainSite:
    path: Path
    domains: dict[str, int]  # images of each domain
    num_negative: int
    num_positive: int


@dataclass(frozen=True)
class DomainSites:
    sites: tuple[DomainSite, ...]
    classes: tuple[str, str]  # negative, positive
    num_left_out: int

    @property
    def paths(self) -> list[Path]:
        return [site.path for site in self.sites]

    def lines(self) -> list[str]:
        negative, positive = self.classes
        wide = max(len(positive), len(negative), 8)
        lines = [f"{'site':12} {positive:>{wide}} {negative:>{wide}}  share  domains"]
        for site in self.sites:
            share = 100 * site.num_positive // (site.num_positive + site.num_negative)
            domains = ", ".join(f"{name} {count}" for name, count in site.domains.items())
            counts = f"{site.num_positive:>{wide}} {site.num_negative:>{wide}}"
            lines.append(f"{site.path.stem:12} {counts}  {share:3} %  {domains}")
        return [*lines, f"{self.num_left_out} images left out to make the label mixes differ and keep groups whole"]


def split_npz_by_domain(source: Path, folder: Path, num_sites: int, seed: int) -> DomainSites:
    """Write `site-1.npz` … `site-<n>.npz` into `folder`. Equal arguments give equal bytes.

    The archive needs exactly two classes; the second of its `label_names` is the positive one. Raises `SourceError`
    where it does not yield so many sites.
    """
    content = read_npz(source)
    if len(content.classes) != 2:
        reason = f"sites are made of an archive with two classes; it has {', '.join(content.classes)}."
        raise SourceError(path=source, reason=reason)
    groups = _groups(content)
    units = _units(content, groups, num_sites, seed)
    sites = _keep_groups_whole(_dealt(units, num_sites), groups)
    chosen = _mixed(content, sites, groups, seed)
    folder.mkdir(parents=True, exist_ok=True)
    written = tuple(
        _write(content.subset(images), folder / f"site-{number}.npz", source) for number, images in enumerate(chosen, 1)
    )
    negative, positive = content.classes
    return DomainSites(written, (negative, positive), len(content) - sum(map(len, chosen)))


def _groups(content: NpzContent) -> list[str]:
    """The group key of every image, as `prepare_site` forms groups: patients, else images that look alike."""
    cases = []
    for index, name in enumerate(content.names):
        image = content.images[index]
        pixels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        group = content.groups[index]
        fingerprint = visual_hash(pixels) if group is None else None
        cases.append(DecodedCase(name, 0, "", group, None, None, index, pixel_digest(pixels), fingerprint))
    return find_groups(cases)


def _units(content: NpzContent, groups: Sequence[str], num_sites: int, seed: int) -> list[Unit]:
    by_domain: dict[str, Unit] = {}
    for index, domain in enumerate(content.domains):
        by_domain.setdefault(domain or NO_DOMAIN, []).append(index)
    found = [unit for _, unit in sorted(by_domain.items()) if _rarer(content, unit) > 0]
    large = [unit for unit in found if _rarer(content, unit) >= _MIN_PER_UNIT]
    small = [unit for unit in found if _rarer(content, unit) < _MIN_PER_UNIT]
    if not large:
        large, small = [[index for unit in small for index in unit]], []
    while len(large) < num_sites:
        richest = max(large, key=lambda unit: _rarer(content, unit))
        large.remove(richest)
        large += _halves(richest, groups, seed)
    return [*sorted(large, key=len, reverse=True), *sorted(small, key=len, reverse=True)]


def _rarer(content: NpzContent, unit: Unit) -> int:
    return min(_counts(content, unit))


def _halves(unit: Unit, groups: Sequence[str], seed: int) -> list[Unit]:
    ordered = sorted(unit, key=lambda index: (keyed_number(seed, "halves", groups[index]), index))
    cut = len(ordered) // 2
    while 0 < cut < len(ordered) and groups[ordered[cut]] == groups[ordered[cut - 1]]:
        cut += 1
    return [ordered[:cut], ordered[cut:]]


def _dealt(units: list[Unit], num_sites: int) -> list[Unit]:
    sites: list[Unit] = [[] for _ in range(num_sites)]
    for unit in units:
        min(sites, key=len).extend(unit)
    return sites


def _keep_groups_whole(sites: Sequence[Unit], groups: Sequence[str]) -> list[Unit]:
    """Each group stays at the site that has most of its images (the first of equals); its others are left out."""
    held: dict[str, Counter[int]] = {}
    for number, site in enumerate(sites):
        for index in site:
            held.setdefault(groups[index], Counter())[number] += 1
    home = {group: min(counts, key=lambda number: (-counts[number], number)) for group, counts in held.items()}
    return [[index for index in site if home[groups[index]] == number] for number, site in enumerate(sites)]


def _mixed(content: NpzContent, sites: Sequence[Unit], groups: Sequence[str], seed: int) -> list[Unit]:
    """Thin out the class in excess until the shares of the positive class are spread evenly over the sites."""
    counts = [_counts(content, site) for site in sites]
    order = sorted(range(len(sites)), key=lambda number: (counts[number][1] / max(1, sum(counts[number])), number))
    chosen: list[Unit] = [[] for _ in sites]
    for rank, number in enumerate(order):
        limits = counts[number]
        if len(sites) > 1:
            percent = _LOWEST_PERCENT + (_HIGHEST_PERCENT - _LOWEST_PERCENT) * rank // (len(sites) - 1)
            limits = _limits(counts[number], percent)
        by_group: dict[str, Unit] = {}
        for index in sites[number]:
            by_group.setdefault(groups[index], []).append(index)
        taken = take_groups({key: _counts(content, unit) for key, unit in by_group.items()}, limits, seed)
        chosen[number] = sorted(index for index in sites[number] if groups[index] in taken)
    return chosen


def _limits(counts: Counts, percent: int) -> Counts:
    negative, positive = counts
    if 100 * positive > percent * (negative + positive):
        return negative, negative * percent // (100 - percent)
    return positive * (100 - percent) // percent, positive


def _counts(content: NpzContent, unit: Sequence[int]) -> Counts:
    positive = sum(content.labels[index] == content.classes[1] for index in unit)
    return len(unit) - positive, positive


def _write(content: NpzContent, path: Path, source: Path) -> DomainSite:
    negative, positive = _counts(content, range(len(content)))
    if min(negative, positive) < _MIN_PER_CLASS:
        reason = f"{path.stem} would get fewer than {_MIN_PER_CLASS} images of a class; ask for fewer sites."
        raise SourceError(path=source, reason=reason)
    write_npz(path, content)
    domains = Counter(domain or NO_DOMAIN for domain in content.domains)
    return DomainSite(path, dict(sorted(domains.items())), negative, positive)
