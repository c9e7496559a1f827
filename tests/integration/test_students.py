"""Small students that larger versions teach: by the same road and gate as any other."""

import json
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import yaml
from sqlalchemy import select

from backtalk import training, tuning
from backtalk.embeddings import load_embeddings
from backtalk.evidence import load_head
from backtalk.recipes import load_recipe
from backtalk.states import RunState, Side, Split, VersionState
from backtalk.system import System
from backtalk.tables import GroupMember, Image, ImageGroup, Run, Sample, Version
from backtalk.trainers import Trainers
from tests.acceptance.digits import Digits
from tests.clients import make_api
from tests.integration.test_full_runs import (
    LENIENT,
    break_off,
    create,
    go_live,
    home,
    reload,
    request,
    set_policy,
    settings,
    trainers,
    travel,
)
from tests.integration.test_small_versions import checks, run, version

__all__ = ["home", "settings", "trainers"]

TAUGHT = (
    "method: distil\ndistil:\n  student: tiny\n  input_size: 48\n  teachers: [champion, '1']\n"
    "epochs: 1\nbatch_size: 16\nbudget:\n  latency: 50\n  size: {size}\n"
)


@pytest.mark.slow
def test_a_student_learns_from_teachers_and_keeps_to_its_budget(
    system: System, trainers: Trainers, home: Path, tmp_path: Path
) -> None:
    recipes = tmp_path / "recipes"
    (recipes / "taught.yaml").write_text(TAUGHT.format(size=1.5))
    (recipes / "too-large.yaml").write_text(TAUGHT.format(size=0.1))
    (recipes / "stranger.yaml").write_text(TAUGHT.format(size=1.5).replace("'1'", "others/1"))
    (recipes / "nobody.yaml").write_text(TAUGHT.format(size=1.5).replace("'1'", "'9'"))
    create(system, trainers, tmp_path / "digits")
    set_policy(system, margin=0.5)
    too_large = run(system, trainers, "too-large")
    assert too_large.state == RunState.REJECTED
    assert "10% is allowed" in (too_large.reason or "")
    taught = run(system, trainers, "taught")
    assert taught.state in (RunState.PROMOTED, RunState.REJECTED), taught.reason
    made, backbone = version(system, taught.version or 0)
    assert (backbone.input_size, backbone.name) == (48, "tiny")
    assert made.metrics["tuning"]["recipe"]["distil"]["share"] == 0.7
    assert checks(system, taught)["size"].passed
    nobody = run(system, trainers, "nobody")
    assert "has no version 9" in (nobody.reason or "")
    other_labels(system)
    stranger = run(system, trainers, "stranger")
    assert (stranger.state, "knows other labels" in (stranger.reason or "")) == (RunState.FAILED, True)


@pytest.mark.slow
def test_a_student_is_taught_the_mean_of_its_teachers_and_nothing_from_a_judging_side(
    system: System, trainers: Trainers, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = TAUGHT.format(size=3).replace("'1'", "'1', '2'").replace("champion, ", "")
    (tmp_path / "recipes" / "taught.yaml").write_text(f"{said}stay_right: 1.0\n")
    create(system, trainers, tmp_path / "digits")
    set_policy(system, audit_share=0.0, **LENIENT)
    go_live(system, run(system, trainers, "fast"))
    record_pictures(system, 80)
    asked = request(system, "taught")
    targets = break_off(system, trainers, asked, monkeypatch)
    train, silent = look_up_images(system, asked, targets)
    words = [ask_version(system, number, train + silent) for number in (1, 2)]
    assert np.abs(words[0] - words[1]).max() > 0.01  # two teachers, of two minds
    mean = (words[0] + words[1]) / 2
    hard = np.eye(2, dtype=np.float32)[targets["train_y"]]
    assert np.abs(targets["train_soft"] - (0.7 * mean[: len(train)] + 0.3 * hard)).max() < 1e-6
    assert len(silent) > 20
    assert np.abs(targets["stay"] - mean[len(train) :]).max() < 1e-6
    with system.db.transaction() as session:
        session.scalars(select(Version).where(Version.number == 1)).one().state = VersionState.QUARANTINED
    training.train_run(system, trainers, str(asked.id))
    ended = reload(system, asked)
    assert (ended.state, "Teacher '1' is quarantined" in (ended.reason or "")) == (RunState.FAILED, True)


def record_pictures(system: System, count: int) -> None:
    """Digits that the champion was asked about by an app, which has spoken of two of them."""
    api = make_api(system)
    digits = Digits()
    digits.take(120, inverted=False)  # those that the model was made of
    for number, digit in enumerate(digits.take(count, inverted=True)):
        answer = api.post("/v1/models/digits:predict", data=digit.png, content_type="image/png").get_json()
        if number < 2:
            path = f"/v1/predictions/{answer['predictions'][0]['id']}/confirmations"
            assert api.post(path, json={}).status_code == 201


def look_up_images(system: System, of: Run, targets: dict[str, np.ndarray]) -> tuple[list[UUID], list[UUID]]:
    """Images of the lesson, with a label and without; each on the side that teaches."""
    left = reload(system, of)
    lesson = tuning.get_work_folder(system.versions.root, left.id) / f"lesson-{left.fence}" / "lesson.json"
    keys = [key for key, _ in json.loads(lesson.read_text())["sources"]]
    labelled, silent = len(targets["train_y"]), len(targets["stay"])
    assert len(keys) == labelled + len(targets["validation_y"]) + silent
    with system.db.reading() as session:
        ids = dict(map(tuple, session.execute(select(Image.store_key, Image.id))))
        splits = dict(map(tuple, session.execute(select(Sample.image_id, Sample.split))))
        of_group = ImageGroup.id == GroupMember.group_id
        sided = select(GroupMember.image_id, ImageGroup.side).join(ImageGroup, of_group)
        sides = dict(map(tuple, session.execute(sided)))
    found = [ids[key] for key in keys]
    assert {splits[i] for i in found[:labelled]} == {Split.TRAIN}
    assert {splits[i] for i in found[labelled:-silent]} == {Split.VALIDATION}
    assert {splits.get(i) for i in found[-silent:]} == {None}
    assert {sides[i] for i in found[-silent:]} == {Side.TRAIN}
    return found[:labelled], found[-silent:]


def ask_version(system: System, number: int, images: list[UUID]) -> np.ndarray:
    """Its scores of these images, which it has seen."""
    head = load_head(system, version(system, number)[0])
    with system.db.reading() as session:
        return head.scores(load_embeddings(session, head.backbone_digest, images, head.weights.shape[1]))


@pytest.mark.slow
@pytest.mark.timeout(900)  # that much only where other work holds the cores
def test_the_phone_s_student_goes_the_whole_road(
    system: System, trainers: Trainers, home: Path, tmp_path: Path
) -> None:
    """As it is shipped, but for what needs ImageNet's weights and hours."""
    shipped = load_recipe("phone", None).model_dump(mode="json")
    shipped["distil"] |= {"weights": "random", "input_size": 32}
    changed = {"epochs": 1, "budget": {"size": 1e4, "latency": 1e6}}  # the champion here is the tiny net
    (tmp_path / "recipes" / "phone.yaml").write_text(yaml.safe_dump(shipped | changed))
    ended = travel(system, trainers, tmp_path / "digits", "tiny", "phone")
    assert ended.recipe is not None
    assert ended.recipe["content"]["distil"]["student"] == "mobilenet-v3-small"
    assert version(system, 2)[1].name == "mobilenet-v3-small"
    assert version(system, 2)[0].metrics["tuning"]["epochs"] == 1


def other_labels(system: System) -> None:
    """Another model, whose version 1 has a head with labels of its own."""
    from tests.served import make_served_model

    folder = system.versions.backbone_dir(version(system, 1)[0].backbone_digest)
    make_served_model(system, folder, "others", versions=1)
