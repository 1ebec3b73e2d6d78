"""What can end the training program, each with one sentence for the person at the terminal.

CovidXrayError
└── TrainingError
    ├── ConfigInvalid         the recipe's file cannot be used
    ├── DatasetInvalid        the images cannot be used for this recipe
    ├── BackboneUnavailable   the backbone's weights cannot be had
    ├── ContinuationImpossible  the recipe does not go on from that release
    ├── WorkerLost            another worker of a training on several machines has ended
    └── RunMismatch           the work folder holds another run, or not yet what is needed
"""

from app.errors import CovidXrayError


class TrainingError(CovidXrayError):
    """Root of the training program's errors."""


class ConfigInvalid(TrainingError):
    """The recipe's file is missing, is no TOML, or says something that cannot be."""


class DatasetInvalid(TrainingError):
    """There are no images, or too few of a label for this recipe."""


class BackboneUnavailable(TrainingError):
    """The backbone's weights cannot be downloaded or read."""


class ContinuationImpossible(TrainingError):
    """A release was made from other images, or by stages that the recipe does not begin with."""


class WorkerLost(TrainingError):
    """Another worker has ended before the training has; all are to be started again."""


class RunMismatch(TrainingError):
    """The work folder belongs to another run, or an earlier stage has not run in it."""
