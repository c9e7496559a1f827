"""The states that rows pass through. Each value says when it holds."""

from enum import StrEnum


class CorrectionState(StrEnum):
    PENDING = "pending"  # nobody has looked at it yet
    DISPUTED = "disputed"  # statements about this image contradict each other
    APPROVED = "approved"  # a decision found a right label in it
    REJECTED = "rejected"  # a decision found nothing to learn in it
    RETRACTED = "retracted"  # withdrawn: replaced by its reporter, or its image deleted


class ConfirmationState(StrEnum):
    ACTIVE = "active"  # counts as somebody's right answer
    DISPUTED = "disputed"  # a correction says otherwise
    RETRACTED = "retracted"  # withdrawn, or a decision found it wrong


class RunKind(StrEnum):
    HEAD = "head"  # refits the head on stored embeddings: seconds
    FULL = "full"  # moves the backbone: minutes to hours


class DeviceForm(StrEnum):
    """Of a file that a device runs: how its weights lie in it."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"  # half the bytes; computed as float32 where there is no float16
    DYNAMIC = "dynamic"  # 8-bit weights, float between them
    INT8 = "int8"  # integers throughout; of versions whose backbone is one of 8-bit integers


class RunState(StrEnum):
    QUEUED = "queued"  # asked for, not yet claimed
    TRAINING = "training"  # a trainer holds the lease
    JUDGING = "judging"  # the candidate is written and waits for its verdict
    PROMOTING = "promoting"  # passed; the compare-and-set is still to come
    PROMOTED = "promoted"  # its version went live
    PASSED = "passed"  # passed under hold; a person may promote it
    REJECTED = "rejected"  # worse than the champion
    INCONCLUSIVE = "inconclusive"  # the data cannot tell
    SUPERSEDED = "superseded"  # the backbone changed under it, or what it learned from was withdrawn
    FAILED = "failed"  # broke off; `reason` says why
    CANCELLED = "cancelled"  # a person stopped it


#: States in which a run holds its model's place for its kind.
ACTIVE_RUN_STATES = (RunState.QUEUED, RunState.TRAINING, RunState.JUDGING, RunState.PROMOTING)
#: Ends that reached a verdict: they consume the decisions before their snapshot cut.
VERDICT_RUN_STATES = (RunState.PROMOTED, RunState.PASSED, RunState.REJECTED, RunState.INCONCLUSIVE)


class VersionState(StrEnum):
    CANDIDATE = "candidate"  # not judged, or passed under hold
    LIVE = "live"  # the champion
    RETIRED = "retired"  # was live
    REJECTED = "rejected"
    INCONCLUSIVE = "inconclusive"
    QUARANTINED = "quarantined"  # its artefact does not verify


class Side(StrEnum):
    """Where a group of near-duplicates was drawn to, once and for ever."""

    TRAIN = "train"
    VALIDATION = "validation"
    EVAL = "eval"


class Split(StrEnum):
    """What a sample may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"  # chooses strength, interpolation and temperature
    HOLDOUT = "holdout"  # unbiased: base images and audits; the only one that speaks for a candidate
    REGRESSION = "regression"  # reported mistakes; can only veto
    KEPT = "kept"  # confirmed answers; can only veto


class Origin(StrEnum):
    """How a sample came by its label."""

    BASE = "base"
    CORRECTION = "correction"
    AUDIT = "audit"
    CONFIRMATION = "confirmation"
    UNCERTAIN = "uncertain"  # a person was asked because the model was not sure: never on the eval side


class ItemKind(StrEnum):
    CORRECTION = "correction"  # somebody reported another label
    AUDIT = "audit"  # drawn at random, or behind a veto of `kept`
    UNCERTAIN = "uncertain"  # the two highest scores are close, and nobody has spoken of it
    SUSPECTED = "suspected"  # a training label that the other samples speak against
    GOLD = "gold"  # the right label is known: measures who answers, and is shown as an audit


class Queue(StrEnum):
    """Where an item stands. Whoever asks for no queue gets those of `DAILY_QUEUES`."""

    CORRECTIONS = "corrections"
    DISPUTED = "disputed"  # statements, or two reviewers, contradict each other
    AUDITS = "audits"
    UNCERTAIN = "uncertain"
    SUSPECTED = "suspected"
    GOLD = "gold"  # of one reviewer, who is not told; counted and shown with the audits


#: What the loop cannot do without; the other queues are offered when asked for.
DAILY_QUEUES = (Queue.CORRECTIONS, Queue.DISPUTED, Queue.AUDITS)
#: What a reviewer may ask for.
OFFERED_QUEUES = (*DAILY_QUEUES, Queue.UNCERTAIN, Queue.SUSPECTED)


class Action(StrEnum):
    """What a reviewer does with an item."""

    APPROVE = "approve"
    RELABEL = "relabel"
    REJECT = "reject"
    SKIP = "skip"  # somebody else may know
    FLAG = "flag"  # an expert must decide
    UNDO = "undo"  # withdraws an earlier decision of the same person


#: What speaks about the item; the others only pass it on or take something back.
RULINGS = (Action.APPROVE, Action.RELABEL, Action.REJECT)


class Withdrawn(StrEnum):
    """What a retraction takes back."""

    CORRECTION = "correction"
    REPORTER = "reporter"  # all that somebody said
    KEY = "key"  # all that a key said, and whatever came of images that it sent


#: Of corrections that nobody has decided.
UNDECIDED = (CorrectionState.PENDING, CorrectionState.DISPUTED)
#: What the gate asks both versions about.
JUDGING_SPLITS = (Split.HOLDOUT, Split.REGRESSION, Split.KEPT)


class ReviewPolicy(StrEnum):
    REQUIRED = "required"  # a person decides each correction
    TRUSTED = "trusted"  # corrections from trusted keys are approved at once
    AUTO = "auto"  # every correction is approved at once


class Scope(StrEnum):
    PREDICT = "predict"
    FEEDBACK = "feedback"
    REVIEW = "review"
    EXPERT = "expert"
    TRAIN = "train"
    PROMOTE = "promote"
    ADMIN = "admin"


class Verdict(StrEnum):
    PASSED = "passed"
    REJECTED = "rejected"
    INCONCLUSIVE = "inconclusive"
