"""Which backbone a new model gets, and how it comes into the store."""

from dataclasses import asdict, dataclass
from typing import Any

from backtalk.progress import Report
from backtalk.system import System
from backtalk.trainers import Trainers

DEFAULT_BACKBONE = "efficientnet-lite0"


@dataclass(frozen=True)
class BackboneWish:
    """An architecture with the side of its images and its weights, where they are not its own."""

    name: str
    input_size: int | None = None
    weights: str | None = None  # a file, or `random`


def prepare_backbone(
    system: System, trainers: Trainers, backbone: str | BackboneWish, report: Report
) -> dict[str, Any]:
    """Have a trainer put it into the store; its digest, source, sizes and name.

    Raises:
        InvalidInput, WeightsRefused, ArtefactInvalid, TrainerFailed
    """
    wish = BackboneWish(backbone) if isinstance(backbone, str) else backbone
    report("backbone", 0, 1)
    with trainers.taken(None, system.versions.root) as trainer:
        described: dict[str, Any] = trainer.call(
            {"do": "prepare_backbone", "store": str(system.versions.root)} | asdict(wish),
            lambda progress: report("backbone", progress.get("fraction", 0.0), 1),
        )
    report("backbone", 1, 1)
    return described | {"name": wish.name}
