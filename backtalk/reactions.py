"""The loop on one page: which task runs after which event. Nothing else lives here."""

from backtalk import events

REACTIONS: dict[type[events.Event], str] = {
    events.CorrectionReceived: "review.prepare",
    events.ConfirmationReceived: "review.prepare",
    events.AuditDrawn: "review.prepare",
    events.StatementApproved: "triggers.consider",
    events.DecisionUndone: "triggers.consider",
    events.StatementsWithdrawn: "triggers.consider",
    events.NightlyCame: "triggers.consider",
    events.ConsiderationDue: "triggers.consider",
    events.RunEnded: "triggers.consider",
    events.HoldLifted: "triggers.consider",
    events.RunRequested: "training.train",
    events.CandidateTrained: "promotion.judge",
    events.ChampionChanged: "promotion.judge",
    events.CandidatePassed: "promotion.promote",
    events.PromotionAsked: "promotion.promote_asked",
    events.DeviceFileAsked: "devices.make_file",
    events.VersionPromoted: "upkeep.prune_versions",
    events.VersionRolledBack: "upkeep.prune_versions",
}

#: The payload field that each task takes; the row behind it is the job.
ARGUMENTS: dict[str, str] = {
    "review.prepare": "prediction_id",
    "triggers.consider": "model_id",
    "training.train": "run_id",
    "promotion.judge": "run_id",
    "promotion.promote": "run_id",
    "promotion.promote_asked": "model_id",
    "devices.make_file": "device_file_id",
    "upkeep.prune_versions": "model_id",
}
