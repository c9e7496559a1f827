"""Solar cells with labels by experts: what makes the model, what the app sends, and what nobody touches.

The images are the ELPV data set (electroluminescence images of solar cells; Buerhop-Lutz et al., 2018;
CC BY-NC-SA 4.0), which the wheel `elpv-dataset` carries.
"""

import importlib.util
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LABELS = ("defective", "functional")
BASE_MONO = 700
TRAFFIC = {"mono": 150, "poly": 1100}
UNTOUCHED = {"mono": 200, "poly": 450}


class DemoDataMissing(RuntimeError):
    """The optional wheel with the images is not installed."""


@dataclass(frozen=True)
class Cell:
    """One solar cell. `label` is the experts' word: defective from a probability of one half."""

    path: Path
    module: str  # "mono" or "poly": how its silicon was grown
    label: str

    @property
    def name(self) -> str:
        return self.path.name

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class Parts:
    """A split of the cells; no cell is in two parts."""

    base: tuple[Cell, ...]  # mono only: the folder that the model is made from
    traffic: tuple[Cell, ...]  # what the app sends, in this order
    untouched: tuple[Cell, ...]  # measured, never talked back about


def find_data() -> Path:
    """The folder with `labels.csv` and `images/`.

    Raises:
        DemoDataMissing: the wheel is not there; the message says how to get it.
    """
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        raise DemoDataMissing("The demo's images are missing: pip install 'backtalk[demo]' brings them.")
    return Path(found.submodule_search_locations[0]) / "data"


def load_cells(folder: Path) -> list[Cell]:
    """Every cell that `labels.csv` lists: path, probability of a defect, kind of module."""
    cells = []
    for line in (folder / "labels.csv").read_text(encoding="ascii").splitlines():
        if line.strip():
            name, probability, module = line.split()
            label = "defective" if float(probability) >= 0.5 else "functional"
            cells.append(Cell(folder / name, module, label))
    return cells


def draw_parts(cells: Iterable[Cell], seed: int) -> Parts:
    """Split at random: the model knows mono cells alone, production is mostly poly."""
    draw = random.Random(seed)
    pool: dict[str, list[Cell]] = {"mono": [], "poly": []}
    for cell in cells:
        pool[cell.module].append(cell)
    for group in pool.values():
        draw.shuffle(group)
    base = _take(pool["mono"], BASE_MONO)
    untouched = [cell for module, n in UNTOUCHED.items() for cell in _take(pool[module], n)]
    traffic = [cell for module, n in TRAFFIC.items() for cell in _take(pool[module], n)]
    draw.shuffle(traffic)
    return Parts(tuple(base), tuple(traffic), tuple(untouched))


def write_folder(cells: Iterable[Cell], folder: Path) -> Path:
    """Lay the cells out as `models create --from` wants them: one folder per label."""
    for cell in cells:
        target = folder / cell.label / cell.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cell.path, target)
    return folder


def _take(pool: list[Cell], n: int) -> list[Cell]:
    taken, pool[:] = pool[:n], pool[n:]
    return taken
