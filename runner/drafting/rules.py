"""What is advised before a first training, a rule a row, with what each rests on: a row of our own results, or a paper.

Our results are small (two CPU cores, random weights, few seeds): a rule that rests on them says how they were made.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from segkd.runner.drafting.plan import foreign, has_segmentation_head, is_trained
from segkd.runner.recipe import parts
from segkd.runner.recipe.told_by_weights import told_by

# encoders that were trained to be read, not to name classes
FEATURES_ALONE = re.compile(r"dino|clip|siglip|mae|sam\b|sam_|beit|eva|radio|depth", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What is known before a training; None where it was not said.

    Attributes:
        teacher, student: an encoder, or for the teacher a run folder, a file of weights or sam.
        labelled, unlabelled: numbers of images. hours: there are for the training.
    """

    teacher: str
    student: str
    labelled: int | None = None
    unlabelled: int | None = None
    hours: float | None = None

    @property
    def has_scores(self) -> bool:
        """Whether the teacher says classes, and not features alone; a path's letters tell nothing of that."""
        if is_trained(self.teacher):
            other = foreign(self.teacher)
            if other:
                return has_segmentation_head(other["model"])
            told = told_by(self.teacher, None, None)
            return told is None or told.model != parts.BARE
        return FEATURES_ALONE.search(self.teacher) is None

    @property
    def is_sam(self) -> bool:
        """Whether the teacher is Segment Anything."""
        return self.teacher == "sam"


@dataclass(frozen=True)
class Rule:
    """A row.

    Attributes:
        when: in words, holds: the same. advice: what to do.
        rests_on: what that was seen in, or who says so.
        row: what stands so in a table of the pages, where it is a result of ours. sets: values of the recipe.
    """

    when: str
    holds: Callable[[Asked], bool]
    advice: str
    rests_on: str
    row: str = ""
    sets: dict[str, object] = field(default_factory=dict)


RULES = (
    Rule(
        "the teacher has scores for your classes",
        lambda asked: asked.has_scores,
        "train the student alone first, for as long as that gains; then set kl beside its cross entropy, which asks "
        "for no features and fits networks of any widths",
        "CamVid at 180 x 240, all labels: +0.84 mIoU on test with 800 iterations, -0.50 with 1500: no method gains",
        row="| KD | 3 | 61.18 +- 0.76 | -0.21 | 53.79 +- 0.13 | -0.50 +- 0.14 | 1.04x |",
        sets={"losses": [{"loss": "cross_entropy"}, {"loss": "kl", "weight": 1.0, "args": {"temperature": 2.0}}]},
    ),
    Rule(
        "the teacher has scores for your classes",
        lambda asked: asked.has_scores,
        "try dist or ickd in place of kl, and compare all of them with the student alone (recipes/sweeps/ shows how)",
        "CamVid at 180 x 240, 800 iterations, three seeds: DIST +1.15 mIoU on test; at half the rate ICKD +0.65 on val",
        row="| DIST | 3 | 61.48 +- 1.04 | +0.09 | 53.82 +- 0.39 | -0.46 +- 0.54 | 1.03x |",
    ),
    Rule(
        "the teacher gives features and no classes (DINO, CLIP, SAM, ...)",
        lambda asked: not asked.has_scores,
        "nfd compares features without their mean and scale, and learns a projection where the widths differ; "
        "token_relation and phi_s are the others made for such teachers",
        "the papers of NFD (arXiv 2207.05256) and PKD (2207.02039: weights 6 and 10, which are 3 and 5 here); "
        "no training of ours",
        sets={
            "losses": [
                {"loss": "cross_entropy"},
                {"loss": "nfd", "weight": 3.0, "args": {"teacher_feature": "last"}},
            ]
        },
    ),
    Rule(
        "the teacher gives features",
        lambda asked: not asked.has_scores,
        "widths need not be equal: where they differ, each loss on features trains a projection of the student's",
        "how the losses are built: none of them asks for equal widths",
    ),
    Rule(
        "the teacher is SAM",
        lambda asked: asked.is_sam,
        "take its published weights: from random ones it learns more slowly than its student",
        "CamVid at 96 x 128, TSIC with SAM from random weights, two seeds: -2.29 mIoU",
        row="| TSIC | 2 | 21.19 +- 1.18 | -2.29 |",
        sets={"losses.nfd.args.teacher_feature": "sam"},
    ),
    Rule(
        "there are images without labels, and the teacher has scores",
        lambda asked: bool(asked.unlabelled) and asked.has_scores,
        "let the teacher speak on them, too: on: both, as here, or pseudo-labels (data.extra), at no cost in a step",
        "the quickstart, labels for one drawn scene of 40, five seeds: 43.86 mIoU alone, 49.06 with kl on both",
        row="| student with the teacher | the same | 0.74 M | 49.62 | 49.04 | 50.16 | 46.32 | 50.14 | 49.06 |",
        sets={"losses.kl.on": "both"},
    ),
    Rule(
        "there are images without labels, and the teacher has scores",
        lambda asked: bool(asked.unlabelled) and asked.has_scores,
        "take a teacher that knows more than the student can learn from its own labels; another brings nothing",
        "CamVid at 180 x 240, 46 of 367 labels, three seeds on test: pseudo-labels +2.30 mIoU, KD on both +1.62 with a "
        "teacher of all labels, -1.30 with one of the same 46",
        row="| pseudo-labels | 3 | 57.95 +- 0.69 | 49.68 +- 0.67 | +2.30 +- 0.54 | 0.98x |",
    ),
    Rule(
        "there are images without labels, and the teacher gives features",
        lambda asked: bool(asked.unlabelled) and not asked.has_scores,
        "nfd reads no labels, so it may have them, too: on: both",
        "how the loss is defined; no training of ours",
        sets={"losses.nfd.on": "both"},
    ),
    Rule(
        "there are more images without labels than with them, and the teacher has scores",
        lambda asked: asked.has_scores and (asked.unlabelled or 0) > (asked.labelled or 0),
        "a teacher is worth more there than the student's own average, which taught it wrong things",
        "CamVid at 180 x 240, 46 of 367 labels, three seeds: mean teacher -2.06 mIoU on test",
        row="| mean teacher | 3 | 54.24 +- 1.23 | 45.33 +- 1.23 | -2.06 +- 0.95 | 1.20x |",
    ),
    Rule(
        "hours are few",
        lambda asked: asked.hours is not None and asked.hours <= 2,
        "give plain training the same time before you believe in a gain: the row `none, same time` of compare.py",
        "CamVid at 180 x 240: 2800 plain iterations have 55.57 mIoU on test, any method with 1500 less (CIRKD: longer)",
        row="| none-as-long | 3 | 64.27 +- 1.09 | - | 55.57 +- 0.60 | - | - |",
    ),
    Rule(
        "hours count",
        lambda asked: asked.hours is not None,
        "keep what the frozen teacher says, for all epochs and later runs (cache: {}); check.py tells its size",
        "deeplabv3 resnet18 <- resnet101 at 512 x 512: a step costs 2.99 of plain training, 0.99 with a full cache",
        row="| deeplabv3 resnet18 <- resnet101, 2 of 512 x 512 | 1 | 0.99 | 2.99 |",
        sets={"networks.teacher.cache": {}},
    ),
    Rule(
        "hours count",
        lambda asked: asked.hours is not None,
        "take kl and dist first, which add 0.1 % to a step; mgd, region_cosine, cirkd_v2 and ickd add 12 to 32 %. "
        "Memory: cirkd_memory keeps 0.8 GB with 19 classes (half_memory: true halves it)",
        "timed at 512 x 512 with deeplabv3 resnet18 <- resnet101 on two CPU cores; 22,000 vectors of 512 a class",
        row="| `mgd` | 1.0 x | 1.0 x | 32.1 % |",
    ),
)
