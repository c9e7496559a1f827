"""A full run that trains nothing: the champion's backbone in 8-bit integers."""

from collections.abc import Callable
from dataclasses import asdict
from time import monotonic
from typing import Any

from backtalk.errors import SnapshotUnusable
from backtalk.learn.backbones import put_quantised, read_input_size
from backtalk.learn.lesson import Lesson, decode_pixels
from backtalk.learn.memory import read_memory_mb

Tell = Callable[..., None]


def quantise(lesson: Lesson, tell: Tell, _is_stopping: Callable[[], bool]) -> dict[str, Any]:
    """Make the lesson's backbone one of 8-bit integers. An attempt that is killed begins anew: it is minutes.

    Raises:
        SnapshotUnusable: no image can be read.
        InvalidInput: it is one of 8-bit integers already.
    """
    started = monotonic()
    mapped = decode_pixels(lesson, read_input_size(lesson.start_backbone), tell)
    images = mapped.open()[mapped.readable]
    if not len(images):
        raise SnapshotUnusable("No training image can be read, so no ranges can be measured for 8 bits.")
    tell("quantise", 0.0)
    prepared = put_quantised(lesson.store, lesson.start_backbone, list(images))
    tell("quantise", 1.0)
    facts = {"images": len(images), "seconds": round(monotonic() - started, 1)}
    return {"backbone": asdict(prepared), "tuning": facts | {"memory_mb": read_memory_mb(peak=True)}}
