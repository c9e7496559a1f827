"""Versions: the list, the page of one with its card, sums and parents, and what can be taken along."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Response, g, render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import audit, catalogue, devicefiles, lineage
from backtalk.archives import TarStream
from backtalk.artefacts import describe_artefact, list_litert, list_saved_model, verify_artefact
from backtalk.errors import ArtefactInvalid
from backtalk.live_accuracy import find_live_accuracy
from backtalk.states import Scope
from backtalk.system import System
from backtalk.tables import Model, Version
from services import downloads
from services.backend import get_backend
from services.review import queries
from services.review.language import translate as _
from services.review.sessions import needs
from services.review.site import blueprint

MOST_PARENTS = 20
#: After so many seconds the page looks again for a file that is being made.
AGAIN_S = 5


@blueprint.get("/models/<model_name>/versions")
def show_versions(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        page = catalogue.list_versions(session, model, cursor=request.args.get("cursor"))
        context = {
            "tainted": lineage.find_tainted(session, model.id),
            "accuracies": queries.find_holdout_accuracies(session, model, page.items),
        }
    return render_template("pages/versions.html", model=model, page=page, versions=page.items, **context)


@blueprint.get("/models/<model_name>/versions/<int:number>")
def show_version(model_name: str, number: int) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        return draw_version(session, model, catalogue.get_version(session, model, number))


@blueprint.post("/models/<model_name>/versions/<int:number>/verify")
@needs(Scope.TRAIN, Scope.PROMOTE)
def verify_version(model_name: str, number: int) -> ResponseReturnValue:
    """Read every file now and hold it against its sum. Changes nothing."""
    system = get_backend().system
    with system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        version = catalogue.get_version(session, model, number)
    try:
        verify_artefact(system, version)
        found: dict[str, Any] = {"whole": True}
    except ArtefactInvalid as error:
        found = {"problem": error.message}
    with system.db.reading() as session:
        return draw_version(session, model, version, **found)


def draw_version(session: Session, model: Model, version: Version, **found: Any) -> str:
    """`found`: what a verification just now came to."""
    system = get_backend().system
    return render_template(
        "pages/version.html",
        model=model,
        version=version,
        artefact=describe_artefact(system, version),
        parents=list_parents(session, model, version),
        device_forms=devicefiles.list_forms(session, version),
        taint=lineage.find_tainted(session, model.id).get(version.number),
        accuracy=queries.find_holdout_accuracies(session, model, [version]).get(version.number),
        live=next(
            (
                one
                for one in find_live_accuracy(session, model)
                if one.version == version.number and one.answered
            ),
            None,
        ),
        **found,
    )


def list_parents(session: Session, model: Model, version: Version) -> list[Version]:
    """The version that it was made from, the one that that was made from, and so on."""
    parents: list[Version] = []
    while version.parent is not None and len(parents) < MOST_PARENTS:
        found = catalogue.find_version(session, model, version.parent)
        if found is None or found.number >= version.number:
            break
        parents.append(found)
        version = found
    return parents


# --- downloads ---------------------------------------------------------------------------------
@blueprint.get("/models/<model_name>/versions/<int:number>/saved-model.tar")
@needs(Scope.TRAIN, Scope.PROMOTE)
def send_saved_model(model_name: str, number: int) -> ResponseReturnValue:
    """The whole artefact: SavedModel, head, card, labels and sums."""
    return send_archive(model_name, number, "saved-model", list_saved_model)


@blueprint.get("/models/<model_name>/versions/<int:number>/litert.tar")
@needs(Scope.TRAIN, Scope.PROMOTE)
def send_litert(model_name: str, number: int) -> ResponseReturnValue:
    """What answers without TensorFlow: flatbuffer, head and labels; of a pruned version, too."""
    return send_archive(model_name, number, "litert", list_litert)


@blueprint.get("/models/<model_name>/versions/<int:number>/device/<form>.tflite")
@needs(Scope.TRAIN, Scope.PROMOTE)
def send_device_file(model_name: str, number: int, form: str) -> ResponseReturnValue:
    """The version as one file for devices. Where it has to be made first, the page waits for it."""
    system = get_backend().system
    wanted = devicefiles.parse_form(form)
    with system.db.transaction() as session:
        found = devicefiles.find_file(
            session, system, model_name=model_name, number=number, form=wanted, caller=g.caller
        )
        if isinstance(found, devicefiles.Ready) and downloads.is_wanted(found):
            subject = f"model:{model_name}"
            audit.record(session, g.caller.actor, "version.download", subject, version=number, form=form)
    if isinstance(found, devicefiles.Ready):
        return downloads.send_device_file(found, say_busy())
    with system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        page = draw_version(session, model, catalogue.get_version(session, model, number), making=wanted)
    return page, 202, {"Refresh": str(AGAIN_S), "Retry-After": str(AGAIN_S)}


def say_busy() -> str:
    return _("Other downloads are going on. Try again when they are done.")


Lister = Callable[[System, Version], Mapping[str, Path | bytes]]


def send_archive(model_name: str, number: int, form: str, list_files: Lister) -> Response:
    """Verified first, then sent as it is read. Who took which version stands in the audit log.

    Raises:
        ArtefactInvalid: it was pruned, quarantined or does not verify.
        Unavailable: too many downloads are going on.
    """
    downloads.begin(say_busy())
    try:
        archive = _open_archive(model_name, number, form, list_files)
    except BaseException:
        downloads.end()
        raise
    response = Response(archive, mimetype="application/x-tar")
    response.call_on_close(downloads.end)
    name = f"{model_name}-{number}-{form}.tar"  # of letters, digits and hyphens: the model's name was found
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Content-Length"] = str(archive.size)
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


def _open_archive(model_name: str, number: int, form: str, list_files: Lister) -> TarStream:
    system = get_backend().system
    with system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        version = catalogue.get_version(session, model, number)
    files = list_files(system, version)
    if request.method == "GET":
        with system.db.transaction() as session:
            subject = f"model:{model.name}"
            audit.record(session, g.caller.actor, "version.download", subject, version=number, form=form)
    try:
        return TarStream(f"{model.name}-{number}", files)
    except OSError as error:
        raise ArtefactInvalid(f"A file of version {number} went away just now: {error.strerror}.") from None
