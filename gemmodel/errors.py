"""The errors that a user can mend: each message names what is wrong, where, and the remedy."""


class GemError(Exception):
    """A failure that ends a command with one line instead of a stack trace."""


class ParameterError(GemError):
    """A value in params.yaml or on the command line is unknown, missing or out of range."""


class DataError(GemError):
    """A folder, a file or a class of photos is not as the step needs it."""


class SiteError(GemError):
    """A web site does not answer, or answers with nothing that can be used."""


class DeviceError(GemError):
    """The device that was asked for is not there."""


class ModelError(GemError):
    """A model, its weights or its classes do not fit."""


class TrackingError(GemError):
    """The MLflow store cannot be used."""
