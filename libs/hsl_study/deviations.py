"""How a study deviates from the published one, told from its configuration; a study adds its own in `deviations`.

Each line is (applies to this study, sentence). What the paper says: methods.md 1.1-1.10; what is inferred: 1.5.
"""

from collections.abc import Callable, Iterator

from hsl_model.protocol.config import RunConfig
from hsl_study.config import StudyConfig

Runs = dict[str, RunConfig]  # of each arm
PUBLISHED_EPOCHS = 100
PUBLISHED_SEEDS = 5


def deviations(study: StudyConfig) -> Iterator[str]:
    """What applies to this study, then its own."""
    runs = {arm.name: study.run_config(arm, ("node-1", "node-2"), 0, "0" * 64) for arm in study.arms}
    for applies, sentence in _DEVIATIONS:
        if applies(study, runs):
            yield sentence
    yield from study.deviations


def _any(test: Callable[[RunConfig], bool]) -> Callable[[StudyConfig, Runs], bool]:
    return lambda _, runs: any(test(run) for run in runs.values())


_DEVIATIONS: tuple[tuple[Callable[[StudyConfig, Runs], bool], str], ...] = (
    (
        lambda study, _: study.mode == "patient",
        "Patients and look-alike images stay whole when data are split; the published splits are by image.",
    ),
    (
        lambda study, _: study.data is None or study.data.reader != "mura",
        "The images are not those of the paper; its numbers are no yardstick for these.",
    ),
    (
        lambda study, _: any(scenario.kind == "combined" for scenario in study.scenarios),
        "The five sites' composition is inferred from published test sizes (methods.md 1.5), not stated by the paper.",
    ),
    (
        lambda study, _: any(scenario.kind == "real-world" for scenario in study.scenarios),
        "The thyroid data are private: sizes and label ratios of the five hospitals are emulated, nothing else.",
    ),
    (
        lambda study, _: any(scenario.kind == "label-skew" for scenario in study.scenarios),
        "Label skew cannot be had with disjoint nodes: they share images, always within one split (methods.md 1.3).",
    ),
    (
        lambda study, _: any(one.scale or one.kind == "given" for one in study.scenarios),
        "Sizes of the sites are other than published.",
    ),
    (
        lambda study, _: any(one.fit for one in study.scenarios),
        "Sites are shrunk by one factor to what the data set supplies; body regions it has not stand for any image.",
    ),
    (
        lambda study, _: len(study.seeds) != PUBLISHED_SEEDS,
        f"The paper has {PUBLISHED_SEEDS} repeats; this study has another number of seeds.",
    ),
    (
        lambda study, _: study.deploy == "last",
        "The model of the last round is scored, not the one with the best validation AUC.",
    ),
    (
        _any(lambda run: run.training.share_epoch == "last"),
        "A node shares its last local epoch, not the one with the best validation AUC.",
    ),
    (
        lambda study, _: min(study.task.height, study.task.width) < 224 or study.task.channels != 3,
        "Images are smaller than 224 pixels, or grey instead of RGB.",
    ),
    (
        _any(lambda run: run.network.encoder != "resnet18"),
        "The encoder is narrower than ResNet-18.",
    ),
    (
        _any(lambda run: run.network.normalisation != "batch"),
        "Group normalisation stands in place of batch normalisation.",
    ),
    (
        _any(lambda run: run.initial.file_sha256 is None),
        "Encoders start from random weights, the published ones from ImageNet's.",
    ),
    (
        _any(lambda run: run.num_rounds * run.training.local_epochs != PUBLISHED_EPOCHS),
        f"The schedule is other than the published {PUBLISHED_EPOCHS} local epochs.",
    ),
    (
        _any(lambda run: run.training.images_per_epoch is not None),
        "A local epoch is a fixed number of images at every site and in every arm, not the site's or the SAT's size.",
    ),
    (
        _any(lambda run: not run.convergence.enabled),
        "The number of rounds is fixed; the paper stops when the validation AUC does not improve.",
    ),
    (
        lambda _, runs: len({run.training.balanced_sampler for run in runs.values()}) == 1,
        "All arms have one sampler, one number of steps, one schedule; the paper does not say so of its baselines.",
    ),
    (lambda _s, _r: True, "The optimiser is AdamW, as in the authors' code; the paper's text says Adam."),
    (
        lambda _s, _r: True,
        "The primary analysis is over training seeds; the published bootstrap pools scores and ignores training noise.",
    ),
    (
        lambda _s, _r: True,
        "Integer counters are not averaged; every test image is scored once, unbalanced (methods.md H1, H4).",
    ),
)
