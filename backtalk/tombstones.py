"""What is left of a deleted image: its row, and the rows that name it. Pixels, hashes and embeddings go.

The files go after the rows (`removals`): what a broken-off deletion leaves is a file that nobody names, and
a row in `image_removals` that says so.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.dataset import lock_decisions
from backtalk.db import lock_model

_LOCK_PREDICTIONS = "SELECT id FROM predictions WHERE image_id = ANY(:ids) ORDER BY id FOR UPDATE"
_LOCK_IMAGES = "SELECT id FROM images WHERE id = ANY(:ids) AND deleted_at IS NULL ORDER BY id FOR UPDATE"
_FIND_MODELS = """
SELECT m.id FROM models m
WHERE EXISTS (SELECT FROM group_members g WHERE g.model_id = m.id AND g.image_id = ANY(:ids))
   OR EXISTS (SELECT FROM samples s WHERE s.model_id = m.id AND s.image_id = ANY(:ids))
   OR EXISTS (SELECT FROM predictions p WHERE p.model_id = m.id AND p.image_id = ANY(:ids))
ORDER BY m.id
"""

_ANNOUNCE = """
INSERT INTO image_removals (pixels_sha256)
SELECT pixels_sha256 FROM images WHERE id = ANY(:ids) AND pixels_sha256 IS NOT NULL
ON CONFLICT DO NOTHING
"""
_EMBEDDINGS = "DELETE FROM embeddings WHERE image_id = ANY(:ids)"
_SAMPLES = "UPDATE samples SET retracted_at = now() WHERE image_id = ANY(:ids) AND retracted_at IS NULL"
_CORRECTIONS = """
UPDATE corrections SET state = 'retracted', prepared_at = coalesce(prepared_at, now())
WHERE prediction_id IN (SELECT id FROM predictions WHERE image_id = ANY(:ids))
AND state IN ('pending', 'disputed')
"""
_CONFIRMATIONS = """
UPDATE confirmations SET state = 'retracted', prepared_at = coalesce(prepared_at, now())
WHERE prediction_id IN (SELECT id FROM predictions WHERE image_id = ANY(:ids)) AND state <> 'retracted'
"""
_ITEMS = """
UPDATE review_items SET closed_at = now(), etag = etag + 1, leased_by = NULL, lease_until = NULL,
    lease_view = NULL
WHERE prediction_id IN (SELECT id FROM predictions WHERE image_id = ANY(:ids)) AND closed_at IS NULL
"""
# A group is what lies near its first image. The oldest one that is left takes its place; a group with
# nobody left forgets its hash, so that nothing falls into it any more.
_GROUPS = """
WITH heirs AS (
    SELECT DISTINCT ON (m.group_id) m.group_id, i.id, i.perceptual_hash
    FROM image_groups g
    JOIN group_members m ON m.group_id = g.id
    JOIN images i ON i.id = m.image_id
    WHERE g.first_image_id = ANY(:ids) AND i.id <> ALL(:ids)
    AND i.deleted_at IS NULL AND i.perceptual_hash IS NOT NULL
    ORDER BY m.group_id, i.id
)
UPDATE image_groups g
SET first_image_id = coalesce(h.id, o.first_image_id), perceptual_hash = h.perceptual_hash
FROM image_groups o LEFT JOIN heirs h ON h.group_id = o.id
WHERE o.id = g.id AND o.first_image_id = ANY(:ids)
"""
_IMAGES = """
UPDATE images SET pixels_sha256 = NULL, perceptual_hash = NULL, store_key = NULL, deleted_at = now()
WHERE id = ANY(:ids)
"""

# Of a deleted image no hash is left, so a picture alone is never known again. But where a snapshot has lost
# members, those that a dataset made of it has, and that are nowhere here, are the ones.
_WAS_DELETED_FROM = """
WITH members AS (
    SELECT unnest(stay_right_ids) AS id FROM snapshots WHERE digest = ANY(:snapshots)
    UNION
    SELECT s.image_id FROM snapshots f JOIN samples s ON s.id = ANY(f.sample_ids)
    WHERE f.digest = ANY(:snapshots)
)
SELECT EXISTS (
    SELECT FROM members m JOIN images i ON i.id = m.id
    JOIN audit_log a ON a.action = 'image.delete' AND a.subject = 'image:' || i.id
    WHERE i.deleted_at IS NOT NULL
)
"""
_NOWHERE = """
SELECT p.pixels FROM unnest(CAST(:pixels AS text[])) AS p(pixels)
WHERE NOT EXISTS (SELECT FROM images i WHERE i.pixels_sha256 = p.pixels)
AND (:all OR EXISTS (SELECT FROM image_removals r WHERE r.pixels_sha256 = p.pixels))
"""


def lock_images(session: Session, image_ids: Sequence[UUID]) -> list[UUID]:
    """Keep statements, decisions, snapshots and new predictions off these images until the transaction ends.

    In the order in which all others take these locks: predictions, decisions, groups, images. Returns those
    that are not deleted, ascending.
    """
    ids = {"ids": sorted(image_ids)}
    session.execute(text(_LOCK_PREDICTIONS), ids)
    models = list(session.scalars(text(_FIND_MODELS), ids))
    for model_id in models:
        lock_decisions(session, model_id)
    for model_id in models:
        lock_model(session, model_id, "groups")
    return list(session.scalars(text(_LOCK_IMAGES), ids))


def bury_images(session: Session, image_ids: Sequence[UUID]) -> None:
    """Turn images into tombstones. The caller has locked them.

    Their samples are retracted, open statements about them too, and nobody is asked about them any more.
    """
    ids = {"ids": list(image_ids)}
    for statement in (
        _ANNOUNCE,
        _EMBEDDINGS,
        _SAMPLES,
        _CORRECTIONS,
        _CONFIRMATIONS,
        _ITEMS,
        _GROUPS,
        _IMAGES,
    ):
        session.execute(text(statement), ids)


def find_deleted(session: Session, snapshots: Sequence[str], pixels: Sequence[str]) -> set[str]:
    """Which of these pictures somebody deleted here: SHA-256 of their pixels.

    Args:
        snapshots: digests of those that the pictures are members of.
        pixels: SHA-256 of each picture's pixels.

    Known are those whose files are still to go, and those that a snapshot of this installation has lost.
    """
    lost = bool(session.scalar(text(_WAS_DELETED_FROM), {"snapshots": list(snapshots)}))
    return set(session.scalars(text(_NOWHERE), {"pixels": list(pixels), "all": lost}))


def drop_pixels(session: Session, image_ids: Sequence[UUID]) -> None:
    """Forget the files of images and keep all else: embedding, hashes, rows. The caller has locked them."""
    ids = {"ids": list(image_ids)}
    session.execute(text(_ANNOUNCE), ids)
    session.execute(text("UPDATE images SET store_key = NULL WHERE id = ANY(:ids)"), ids)
