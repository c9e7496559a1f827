"""Conditions that a caller can be told about. They know no HTTP: `services.api.errors` maps them.

Each message is a sentence that says what is wrong and, where it can, what to do.
"""


class BacktalkError(Exception):
    """The base of every condition below."""

    def __init__(self, message: str, **extra: object) -> None:
        super().__init__(message)
        self.message = message
        self.extra = extra  # members that a machine may read, such as the list of labels


# --- not there -------------------------------------------------------------------------------
class NotFound(BacktalkError):
    """No row with that name or id."""


class ModelNotFound(NotFound):
    pass


class VersionNotFound(NotFound):
    pass


class ServableNotFound(NotFound):
    """A version that cannot be asked here: it is not in memory."""


class PredictionNotFound(NotFound):
    pass


class CorrectionNotFound(NotFound):
    pass


class RunNotFound(NotFound):
    pass


class ItemNotFound(NotFound):
    pass


class DecisionNotFound(NotFound):
    pass


class ImageNotFound(NotFound):
    pass


class SnapshotNotFound(NotFound):
    pass


# --- wrong input -----------------------------------------------------------------------------
class InvalidInput(BacktalkError):
    """Well-formed, but it cannot be done with these values."""


class UnknownForm(InvalidInput):
    """There is no such form of a file for devices."""


class UnknownLabel(InvalidInput):
    pass


class UnknownVersion(InvalidInput):
    """A device names a version that its model never had."""


class UnknownVersionLabel(InvalidInput):
    """Versions in service are labelled `live` and `previous`."""


class MalformedTensor(InvalidInput):
    """JSON that is no tensor of the signature that was asked."""


class WrongSignature(InvalidInput):
    """A signature that cannot be asked in this way."""


class SameLabel(InvalidInput):
    """A correction that repeats the prediction: send a confirmation instead."""


class InvalidPolicy(InvalidInput):
    pass


class InvalidRecipe(InvalidInput):
    """A recipe with an unknown key or a bad value."""


class UnknownRecipe(InvalidInput):
    pass


class InvalidName(InvalidInput):
    pass


class BadFolder(InvalidInput):
    """A folder that no model can be made from."""


class RefusedImage(InvalidInput):
    """An image that is not taken in; `reason` is a short code."""

    def __init__(self, reason: str, message: str, **extra: object) -> None:
        super().__init__(message, reason=reason, **extra)
        self.reason = reason


class UnsupportedImage(RefusedImage):
    """Not a JPEG, PNG or WebP."""


class ImageTooLarge(RefusedImage):
    """Too many bytes or pixels."""


class BackupInvalid(InvalidInput):
    """A backup that is not whole, was changed, or is of another release."""


class DatasetInvalid(InvalidInput):
    """A folder that is no dataset, or not as it was written."""


class InvalidCertificate(InvalidInput):
    """A certificate or key that TLS cannot be spoken with."""


class InvalidCursor(InvalidInput):
    pass


# --- at odds with the present state ----------------------------------------------------------
class Conflict(BacktalkError):
    """The rows are in another state than this needs."""


class DatasetConflict(Conflict):
    """What a dataset says of pictures is at odds with what is known of them here."""


class NameTaken(Conflict):
    pass


class ChampionMoved(Conflict):
    """Another version went live since the caller looked."""


class RunActive(Conflict):
    """A run of that kind is active on this model already."""


class ImageDeleted(Conflict):
    """The picture behind a prediction was deleted: nothing can be learned from it any more."""


class ClientRefTaken(Conflict):
    """A device called two predictions the same."""


class NothingToRollBack(Conflict):
    pass


class CannotUndo(Conflict):
    """Others have spoken since."""


class IdempotencyKeyReused(InvalidInput):
    """The same Idempotency-Key came with another body."""


class ItemChanged(BacktalkError):
    """Somebody else decided, or the item is another than the caller saw."""


class EtagMissing(BacktalkError):
    """A decision needs If-Match."""


# --- who ---------------------------------------------------------------------------------------
class NotAuthenticated(BacktalkError):
    pass


class NotAllowed(BacktalkError):
    pass


# --- the machine -------------------------------------------------------------------------------
class Unavailable(BacktalkError):
    """Cannot be served now; try again shortly."""


class NoVersionInService(Unavailable):
    pass


class Overloaded(Unavailable):
    """More is being done already than can be done soon."""


class DiskNearlyFull(Unavailable):
    """What comes in could not be kept."""


class ArtefactInvalid(BacktalkError):
    """A version's files do not match its sums, or do not load."""


class LeaseLost(BacktalkError):
    """Another owner holds the run: whatever this one does no longer counts."""


class WorkerStopping(BacktalkError):
    """This worker was asked to stop: its run goes to another."""


class Superseded(BacktalkError):
    """What a run was made from is the champion's no longer: it ends, and another may follow."""


class WeightsRefused(BacktalkError):
    """Weights that are not there, or a file that is not what it should be; nothing in it was run."""


class TrainerFailed(BacktalkError):
    """The trainer ended without a result."""


class TrainingDiverged(TrainerFailed):
    """The loss is no number any more; the message names the step."""


class OutOfRoom(TrainerFailed):
    """The disk is full, or the run needs more memory than it may have."""


class SnapshotUnusable(BacktalkError):
    """A snapshot that no head can be fitted to, such as one with a single label."""
