"""Everything that can be wrong with what a trainer was given. The message says what, and where to look.

    TrainingError
    ├── DatasetError        a data folder, its table, or one of its sound files
    ├── RecipeError         a recipe or an override of one of its keys
    ├── RunError            the folder of a run: in the way, missing, another run's, or diverged
    ├── EvaluationError     a model that cannot be measured, or must not be measured like this
    └── ExportError         a model that cannot be written in another format, or comes out different there

Imports nothing, so that the command line can tell these apart before torch is there.
"""


class TrainingError(Exception):
    """Base of all; the command line prints the message and exits non-zero."""


class DatasetError(TrainingError):
    """A data folder that cannot be used."""


class RecipeError(TrainingError):
    """A recipe that cannot be used."""


class RunError(TrainingError):
    """A run that cannot be started, resumed or gone on with."""


class EvaluationError(TrainingError):
    """A model that cannot be evaluated, or a figure that would mislead."""


class ExportError(TrainingError):
    """A model that cannot be exported, or whose export answers differently."""
