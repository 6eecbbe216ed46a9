"""The exceptions, as one small tree.

CpepError
├── ConfigError       a recipe or an option says something impossible
├── DataError         a session or a corpus cannot be used
├── TrainingError     a training diverged, collapsed, or learnt nothing
├── ArtifactError     a checkpoint, bundle, program or index cannot be trusted or read
├── PowerError        a power meter is missing, not permitted, or stopped
└── LinkError         the wristband or its port failed
    ├── LinkTimeout   nothing answered in time (also a TimeoutError)
    └── FrameError    bytes that are not a frame (counted, rarely raised)

The message is one sentence that a user can act on. A mistake of the caller is a ValueError or TypeError instead.
"""


class CpepError(Exception):
    """Base of all failures; the message is one sentence for the user."""


class ConfigError(CpepError):
    """A recipe or an option says something impossible."""


class DataError(CpepError):
    """A session file or a corpus cannot be used; the message names the file and the field."""


class TrainingError(CpepError):
    """Training cannot succeed and was stopped."""


class ArtifactError(CpepError):
    """A checkpoint, bundle, program or index cannot be trusted or read."""


class PowerError(CpepError):
    """A power meter is missing, not permitted, or stopped."""


class LinkError(CpepError):
    """The wristband or its port failed."""


class LinkTimeout(LinkError, TimeoutError):  # noqa: N818 - the name says what happened
    """Nothing answered in time."""


class FrameError(LinkError):
    """Bytes that are not a frame."""
