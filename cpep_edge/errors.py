"""What can go wrong in the world, as one small tree.

CpepError
├── ConfigError       a recipe or an option says something impossible
├── DataError         a session or a corpus cannot be used
├── TrainingError     a training diverged, collapsed, or learnt nothing
├── ArtifactError     a checkpoint, bundle, program or index cannot be trusted or read
├── PowerError        a power meter that is not there, must not be read, or stopped
└── LinkError         the wristband, or the port that it is connected to
    ├── LinkTimeout   nothing answered in time (also a TimeoutError)
    └── FrameError    bytes that are no frame (counted, rarely raised)

The message is one sentence that a user can act on. A caller's slip is a ValueError or a TypeError instead.
"""


class CpepError(Exception):
    """Base of every failure that the user is told in one sentence."""


class ConfigError(CpepError):
    """A recipe or an option says something impossible."""


class DataError(CpepError):
    """A session file or a corpus cannot be used; the message names the file and the field."""


class TrainingError(CpepError):
    """A training cannot come to anything and was stopped."""


class ArtifactError(CpepError):
    """A checkpoint, bundle, program or index cannot be trusted or read."""


class PowerError(CpepError):
    """A power meter is not there, must not be read, or stopped."""


class LinkError(CpepError):
    """The wristband, or the port that it is connected to, failed."""


class LinkTimeout(LinkError, TimeoutError):  # noqa: N818 - the name says what happened
    """Nothing answered in time."""


class FrameError(LinkError):
    """Bytes that are no frame."""
