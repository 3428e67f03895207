"""The errors of training, evaluation and export. Each message states what was found and which file or key it concerns.

    TrainingError
    ├── DatasetError        a data folder, its table, or one of its sound files
    ├── RecipeError         a recipe or an override of one of its keys
    ├── RunError            a run folder: occupied, missing, or of another run
    │   └── DivergedError   a run whose loss is not finite
    ├── BaseModelError      a network of another project: its file, its download, or its conversion
    ├── DownloadError       a file that cannot be downloaded, or that is not the expected one
    ├── EvaluationError     a model that cannot be evaluated, or whose evaluation would be misleading
    └── ExportError         a model that cannot be exported, or whose export gives other results

Imports no torch, so that the command line can catch these errors before it is imported.
"""

from otoscope.errors import cause as cause


class TrainingError(Exception):
    """Base class. The command line prints the message and exits with a non-zero status."""


class DatasetError(TrainingError):
    """The data folder cannot be used."""


class RecipeError(TrainingError):
    """The recipe cannot be used."""


class RunError(TrainingError):
    """The run cannot be started, resumed or continued."""


class DivergedError(RunError):
    """The loss of the run is not finite."""


class BaseModelError(TrainingError):
    """The network of another project cannot be fetched or converted."""


class DownloadError(TrainingError):
    """The file cannot be downloaded, or it is not the expected one."""


class EvaluationError(TrainingError):
    """The model cannot be evaluated, or its evaluation would be misleading."""


class ExportError(TrainingError):
    """The model cannot be exported, or the exported model gives other results."""
