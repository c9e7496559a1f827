"""The API process stays small: it never loads what only trainers and workers need."""

import json
import os
import subprocess
import sys
from pathlib import Path

from backtalk.system import System
from tests.clients import make_key
from tests.served import make_jpeg, make_served_model

_FORBIDDEN = ("tensorflow", "keras", "celery", "kombu", "torch", "sklearn", "matplotlib")

# All that an API process does in its life: start, load a version, answer, show a page, say how it is.
_SCRIPT = """
import json, sys
from pathlib import Path
from services.wsgi import create_app

key, picture = sys.argv[1], Path(sys.argv[2]).read_bytes()
app = create_app()
client = app.test_client()
headers = {"Authorization": f"Bearer {key}"}
statuses = {
    path: client.open(path, method=method, data=data, headers=headers).status_code
    for method, path, data in (
        ("POST", "/v1/models/animals:predict", picture),
        ("GET", "/v1/models/animals", None),
        ("GET", "/openapi.json", None),
        ("GET", "/sign-in", None),
        ("GET", "/metrics", None),
        ("GET", "/livez", None),
    )
}
app.extensions["backtalk"].live.close()
print(json.dumps({"statuses": statuses, "modules": sorted(sys.modules)}))
"""


def test_an_api_process_that_has_answered_everything_never_imported_what_it_must_not(
    system: System, tiny_folder: Path, tmp_path: Path
) -> None:
    make_served_model(system, tiny_folder)
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(make_jpeg())
    settings = system.settings
    environment = os.environ | {
        "BACKTALK_HOME": str(settings.home),
        "BACKTALK_DATABASE_URL": str(settings.database_url),
        "BACKTALK_REDIS_URL": str(settings.redis_url),
    }
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, make_key(system), str(picture)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said["statuses"].values()) == {200}, said["statuses"]
    assert "ai_edge_litert" in said["modules"]
    loaded = {module.split(".")[0] for module in said["modules"]}
    assert not loaded & set(_FORBIDDEN)
