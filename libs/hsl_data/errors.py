"""What can be wrong with a site's data, said so that its administrator can put it right.

A sentence may leave the house in a failure report, the name of an image may not: only `UnreadableImageError`, which
never ends a preparation, does so.
"""

from hsl_model.protocol.errors import HslError


class SourceError(HslError):
    code = "data_source_invalid"
    http_status = 422
    title = "The data source cannot be read"
    template = "{path} cannot be used as a data source: {reason}"


class ClassMappingError(HslError):
    code = "class_mapping_invalid"
    http_status = 422
    title = "The class mapping does not fit the task"
    template = "The class mapping does not fit task {task_id}: {reason}"


class ClassMissingError(HslError):
    code = "class_missing"
    http_status = 422
    title = "A class is missing at this site"
    template = "{reason}"


class UnmappedClassError(HslError):
    code = "class_unmapped"
    http_status = 422
    title = "A class of this site is neither mapped nor ignored"
    template = (
        "These classes are neither mapped nor ignored: {classes}. "
        "Map each by name, or list it in ignored_classes (on the command line: --ignore-class)."
    )


class DomainMissingError(HslError):
    code = "domain_missing"
    http_status = 422
    title = "A domain of the filter does not occur"
    template = "No case has domain {domains}. The source has: {found}."


class UnreadableImageError(HslError):
    """One image that cannot be used: counted against the skip budget, or the answer to `hsl predict`."""

    code = "image_unreadable"
    http_status = 422
    title = "The image cannot be read"
    template = "{name} cannot be used: {reason}."

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name=name, reason=reason)
        self.reason = reason


class UnreadableError(HslError):
    """More images are unreadable than the skip budget allows. `cases` are (name, reason), for the site's eyes only."""

    code = "too_many_unreadable"
    http_status = 422
    title = "Too many images are unreadable"
    template = (
        "{num_unreadable} of {num_cases} images cannot be read ({reasons}), more than max_unreadable_share "
        "{max_share} allows. Repair or remove them, or raise max_unreadable_share."
    )

    def __init__(self, cases: tuple[tuple[str, str], ...], **data: object) -> None:
        super().__init__(**data)
        self.cases = cases


class SatMissingError(HslError):
    code = "sat_missing"
    http_status = 422
    title = "The shared anchor task is missing"
    template = (
        "This run needs the SAT bundle with digest {digest}, and none is bound here. "
        "Get the bundle from the alliance and bind it with the task."
    )


class SatDigestError(HslError):
    code = "sat_digest_wrong"
    http_status = 422
    title = "This is not the SAT bundle of the run"
    template = "{path} has digest {found}, but the run declares {expected}. Get the bundle the alliance published."


class SatInvalidError(HslError):
    code = "sat_invalid"
    http_status = 422
    title = "The SAT bundle is not acceptable"
    template = "{path} is not a usable SAT bundle: {reason}"


class SatTooSmallError(HslError):
    code = "sat_too_small"
    http_status = 422
    title = "Too few images for the SAT"
    template = "{wanted} images of {class_name} were asked for, but only {found} can be used; give a smaller per_class."
