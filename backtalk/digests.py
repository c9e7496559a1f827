"""The digest of what a run learns from: the same content gives the same one, on whatever machine. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

#: Of a labelled image: SHA-256 of its pixels, label, split, origin.
Labelled = tuple[str, str, str, str]


def digest_content(
    labelled: Iterable[Labelled], stay_right: Iterable[str] = (), left_out: Mapping[str, Any] | None = None
) -> str:
    """SHA-256, in hexadecimal, over a line for each image, sorted.

    Args:
        stay_right: SHA-256 of the pixels of the unlabelled images.
        left_out: what the admission left out, as it stands in the snapshot's counts.
    """
    lines = ["\t".join(image) for image in labelled]
    lines += [f"{pixels}\tstay-right" for pixels in stay_right]
    if left_out:
        lines.append(json.dumps(left_out, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
