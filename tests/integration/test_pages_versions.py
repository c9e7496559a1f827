"""Versions on the pages: card, sums, parents, downloads, two of them compared, the pictures that flipped."""

import hashlib
import io
import re
import tarfile

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from backtalk.runtime import FLATBUFFER
from backtalk.states import RunState, Scope, VersionState
from backtalk.system import System
from backtalk.tables import AuditEntry, Embedding, GateCheck, Image, Model, Run, Sample, Version
from services import downloads
from services.wsgi import create_app
from tests import exhibits, factories, showroom
from tests.integration.test_pages_sign_in import read_csrf, sign_in


@pytest.fixture
def client(system: System) -> FlaskClient:
    """Signed in as somebody who may do everything, with a model `cells` whose versions lie on disk."""
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        showroom.add_history(session, factories.make_model(session, "cells", labels=["good", "bad"]))
    exhibits.add_exhibits(system, "cells", [showroom.draw_picture(i, 60) for i in range(4)])
    client = create_app(system=system).test_client()
    sign_in(client)
    return client


@pytest.fixture
def reader(client: FlaskClient, system: System) -> FlaskClient:
    """Signed in as somebody who may only look."""
    showroom.add_person(system, "bob", (Scope.FEEDBACK,))
    bob = create_app(system=system).test_client()
    sign_in(bob, "bob")
    return bob


def find_version(system: System, number: int) -> Version:
    with system.db.reading() as session:
        return session.scalars(select(Version).where(Version.number == number)).one()


def find_run(system: System, state: RunState = RunState.PROMOTED) -> Run:
    with system.db.reading() as session:
        return session.scalars(select(Run).where(Run.state == state).order_by(Run.id.desc())).first()


# --- one version -------------------------------------------------------------------------------
def test_a_version_shows_its_card_parents_sums_and_how_well_it_does(client, system):
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        exhibits.add_traffic(session, model, days=2, a_day=30)
    page = client.get("/models/cells/versions/5").text
    parents = re.search(r'<ol class="parents">(.*?)</ol>', page, re.DOTALL)[1]
    assert re.findall(r"Version (\d)", parents) == ["2", "1"]
    for said in (
        "Seed",
        "1239",
        "tensorflow 2.21.0",
        "answered audits",
        "when it was judged",
        "saved_model.pb",
    ):
        assert said in page
    assert find_version(system, 5).artefact_digest in page
    for file, digest in re.findall(r"<th scope=\"row\">(\S+)</th>.*?<code class=\"long\">(\w+)</code>", page):
        data = (system.versions.resolve("cells/5") / file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
    assert client.get("/models/cells/versions/77").status_code == 404
    # What was withdrawn since is told.
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        retraction = factories.add(
            session,
            factories.tables.Retraction(what="key", subject="app", actor="cli", counts={"samples": 1}),
        )
        sample = factories.make_sample(
            session, model, retracted_at=showroom.minutes_ago(1), retraction_id=retraction.id
        )
        run = session.scalars(select(Run).where(Run.version == 5)).one()
        session.scalars(
            select(factories.tables.Snapshot).where(factories.tables.Snapshot.digest == run.snapshot_digest)
        ).one().sample_ids = [sample.id]
    assert "1 of its samples were withdrawn since" in client.get("/models/cells/versions/5").text
    assert "1 of its samples were withdrawn since" in client.get("/models/cells/versions/5/promote").text


def test_verify_now_reads_every_file_and_names_the_one_that_was_changed(client, reader, system):
    address = "/models/cells/versions/5/verify"
    form = {"csrf_token": read_csrf(client)}
    assert "Verified just now" in client.post(address, data=form).text
    (system.versions.resolve("cells/5") / "saved_model.pb").write_bytes(b"other")
    page = client.post(address, data=form).text
    assert "saved_model.pb was changed" in page
    assert "Verified just now" not in page
    assert "Verify now" not in reader.get("/models/cells/versions/5").text
    assert reader.post(address, data={"csrf_token": read_csrf(reader)}).status_code == 403


# --- downloads ---------------------------------------------------------------------------------
def unpack(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_versions_are_taken_along_whole_a_few_at_a_time_and_the_audit_log_says_by_whom(client, system):
    answer = client.get("/models/cells/versions/5/saved-model.tar", buffered=True)
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == 'attachment; filename="cells-5-saved-model.tar"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    found = unpack(answer.data)
    folder = system.versions.resolve("cells/5")
    expected = {f"cells-5/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.*")}
    assert expected.items() <= found.items()
    assert hashlib.sha256(found["cells-5/SHA256SUMS"]).hexdigest() == find_version(system, 5).artefact_digest
    with system.db.reading() as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "version.download")).one()
    assert (entry.actor, entry.detail) == ("user:ada", {"version": 5, "form": "saved-model"})
    # An edge device gets flatbuffer, head and labels, of a pruned version too.
    with system.db.transaction() as session:
        version = session.scalars(select(Version).where(Version.number == 2)).one()
        version.pruned_at = showroom.minutes_ago(1)
    system.versions.prune("cells/2")
    assert client.get("/models/cells/versions/2/saved-model.tar").status_code == 409
    answer = client.get("/models/cells/versions/2/litert.tar", buffered=True)
    found = unpack(answer.data)
    assert found["cells-2/labels.txt"] == b"good\nbad\n"
    digest = hashlib.sha256(found[f"cells-2/{FLATBUFFER}"]).hexdigest()
    assert digest == find_version(system, 2).backbone_digest
    assert found["cells-2/head.npz"] == (system.versions.resolve("cells/2") / "head.npz").read_bytes()
    page = client.get("/models/cells/versions/2").text
    assert "was pruned" in page
    assert "saved-model.tar" not in page
    # No more than a few at once, so that somebody else gets an answer.
    several = "/models/cells/versions/5/litert.tar"
    open_ones = [client.get(several) for _ in range(downloads.MOST_DOWNLOADS)]
    refused = client.get(several)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    for answer in open_ones:
        answer.close()  # a browser that goes away lets the next one in
    assert client.get(several, buffered=True).status_code == 200


def test_nothing_damaged_is_handed_out_and_nobody_without_the_scope_gets_anything(client, reader, system):
    forms = [f"/models/cells/versions/5/{form}.tar" for form in ("saved-model", "litert")]
    stranger = create_app(system=system).test_client()
    assert "needs the scope" in reader.get("/models/cells/versions/5").text
    for address in forms:
        assert reader.get(address).status_code == 403
        assert stranger.get(address).status_code == 303
    (system.versions.resolve("cells/5") / "card.json").write_bytes(b"{}")
    for address in forms:
        refused = client.get(address)
        assert refused.status_code == 409
        assert "card.json was changed" in refused.text
    folder = system.versions.backbone_dir(find_version(system, 2).backbone_digest)
    (folder / FLATBUFFER).write_bytes(b"other")
    assert client.get("/models/cells/versions/2/litert.tar").status_code == 409
    with system.db.transaction() as session:
        session.scalars(select(Version).where(Version.number == 3)).one().state = VersionState.QUARANTINED
    assert client.get("/models/cells/versions/3/saved-model.tar").status_code == 409


# --- two of them -------------------------------------------------------------------------------
def test_two_versions_are_compared_on_the_same_pictures_or_it_says_why_not(client, system):
    page = client.get("/models/cells/compare?before=2&after=5").text
    assert "85.9 % (81.8 to 89.2)" in page
    assert "92.1 % (88.7 to 94.5)" in page
    assert "+6.2 pt" in page
    assert re.search(r"37 <span class=\"of\">fixed</span> · 16 <span class=\"of\">broken</span>", page)
    assert "16 of the holdout broken" in page
    assert page.count('<table class="matrix">') == 2
    backwards = client.get("/models/cells/compare?before=5&after=2").text
    assert "−6.2 pt" in backwards
    assert "16 of the holdout fixed" in backwards
    assert client.get("/models/cells/compare").text.count("selected") == 2
    assert "Choose two different versions" in client.get("/models/cells/compare?before=2&after=2").text
    assert client.get("/models/cells/compare?before=2&after=99").status_code == 404
    assert client.get("/models/cells/compare?before=x").status_code == 422
    with system.db.transaction() as session:
        other = factories.make_backbone(session, "a" * 64)
        model = session.scalars(select(Model)).one()
        head = system.versions.resolve("cells/5") / "head.npz"
        exhibits.write_foreign_head(head, other.digest, model.labels)
    page = client.get("/models/cells/compare?before=2&after=5").text
    assert "different backbones" in page
    assert "cannot be told" in client.get("/models/cells/versions/2/promote").text
    (system.versions.resolve("cells/5") / "head.npz").unlink()
    assert (
        "The files of one of the two cannot be read"
        in client.get("/models/cells/compare?before=2&after=5").text
    )


# --- pictures ----------------------------------------------------------------------------------
def test_a_run_shows_the_very_pictures_that_flipped_and_what_both_said(client, reader, system):
    run = find_run(system)
    page = client.get(f"/models/cells/runs/{run.id}").text
    gallery = page.split('id="gallery"')[1].split('id="confusion"')[0]
    assert "16 of the holdout broken" in gallery
    assert "Its pixels are not kept." in gallery
    picture = re.search(r'<img src="([^"]+)"', gallery)[1].replace("&amp;", "&")
    assert client.get(picture).mimetype == "image/jpeg"
    with system.db.reading() as session:
        check = session.scalars(
            select(GateCheck).where(GateCheck.run_id == run.id, GateCheck.check == "accuracy-champion")
        ).one()
    first = check.detail["broken_images"][0]
    tile = gallery.rsplit(first, 1)[1].split("</li>")[0]
    assert re.findall(r"spoken\">(\w+): ", tile) == ["right", "wrong"]
    # Without the scope there are no pictures, but all the figures.
    blind = reader.get(f"/models/cells/runs/{run.id}").text
    assert "<img" not in blind
    assert "16 of the holdout broken" in blind
    # A deleted picture is said to be so.
    with system.db.transaction() as session:
        session.get(Image, first).deleted_at = showroom.minutes_ago(1)
    assert "Deleted since." in client.get(f"/models/cells/runs/{run.id}").text

    # The figures are those of the verdict, whatever came later.
    def read_matrices() -> list[str]:
        page = client.get(f"/models/cells/runs/{run.id}").text
        return re.findall(r'class="number (?:hit|miss)-\d" title="[^"]+">(\d+)<', page)

    before = read_matrices()
    assert sum(map(int, before)) == 2 * showroom.HOLDOUT
    with system.db.transaction() as session:
        session.query(Embedding).delete()
    assert read_matrices() == before


def test_long_galleries_are_paged_and_each_picture_has_a_page(client, system):
    run = find_run(system)
    seen: list[str] = []
    address = f"/models/cells/runs/{run.id}/flips?of=holdout&way=fixed"
    for _ in range(3):
        page = client.get(address).text
        seen += re.findall(r'<li class="flip">', page)
        onwards = re.search(r'href="([^"]+)">Next<', page)
        if onwards is None:
            break
        address = onwards[1].replace("&amp;", "&")
    assert len(seen) == 37
    assert client.get(f"/models/cells/runs/{run.id}/flips?of=mars").status_code == 422
    assert client.get(f"/models/cells/runs/{run.id}/flips?from=9999").status_code == 200
    comparison = client.get("/models/cells/compare/flips?before=2&after=5&way=broken").text
    assert comparison.count('<li class="flip">') == 16
    # One picture says what it counts as, and what was said of it.
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        sample = session.scalars(select(Sample).where(Sample.split == "holdout").limit(1)).one()
        image = session.get(Image, sample.image_id)
        prediction = factories.make_prediction(session, model, image, label="bad", audit=True)
        factories.make_correction(session, prediction, "good", reporter="line-3")
        stranger = factories.make_image(session)
    page = client.get(f"/models/cells/images/{sample.image_id}").text
    for said in ("judging (holdout)", "the folder it began with", "“good”", "line-3", "80.0 %"):
        assert said in page
    assert client.get(f"/models/cells/images/{stranger.id}").status_code == 404
