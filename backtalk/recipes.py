"""Recipes of full runs: how a backbone is moved. `docs/recipes.md` explains each key."""

import importlib.resources
import re
from collections.abc import Hashable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from backtalk.errors import InvalidRecipe, UnknownRecipe

DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TEACHER = re.compile(rf"champion|[1-9][0-9]{{0,8}}|{_NAME.pattern}/[1-9][0-9]{{0,8}}")
_LARGEST_BYTES = 100_000


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Augmentation(_Section):
    """What may happen to an image before it is learned from; drawn by seed, epoch and image."""

    flip: Literal["none", "horizontal", "vertical", "both"] = "horizontal"
    quarter_turns: bool = Field(False, description="Turn by 0, 90, 180 or 270 degrees.")
    shift: float = Field(0.05, ge=0, le=0.5, description="At most so much of the side, each way.")
    zoom: float = Field(0.1, ge=0, le=0.5, description="In or out by at most this share.")
    brightness: float = Field(0.1, ge=0, le=0.5, description="At most so much of the full range.")
    contrast: float = Field(0.1, ge=0, le=0.9, description="More or less by at most this share.")


class Distillation(_Section):
    """A small student learns what larger teachers say, of labelled and of unlabelled images."""

    student: str = Field(description="Name of its backbone, as `models create --backbone` takes it.")
    input_size: int | None = Field(
        None, ge=32, le=1024, multiple_of=4, description="Side of its images; the backbone's own if null."
    )
    weights: str | None = Field(None, description="A file, or `random`; ImageNet's if null.")
    teachers: tuple[str, ...] = Field(
        ("champion",), min_length=1, max_length=8, description="`champion`, version numbers, or MODEL/N."
    )
    share: float = Field(0.7, gt=0, le=1, description="Of what teachers say in a labelled image's target.")

    @field_validator("teachers")
    @classmethod
    def _known_forms(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not _TEACHER.fullmatch(value):
                raise ValueError(f"{value!r} is none of champion, a version's number, and MODEL/N")
        return values


class Quantisation(_Section):
    """The champion's backbone in 8-bit integers."""

    images: int = Field(200, ge=10, le=5000, description="Training images that ranges are measured on.")


class Budget(_Section):
    """What the candidate may cost, as a share of the champion's; null is the policy's."""

    size: float | None = Field(None, gt=0, description="Bytes of the backbone.")
    latency: float | None = Field(None, gt=0, description="Time of one image on one thread.")


Layers = Annotated[int, Field(ge=1, strict=True)]


class Recipe(_Section):
    """One way to make a backbone. Each default is what `default.yaml` does."""

    description: str = ""
    method: Literal["tune", "distil", "quantise"] = Field(
        "tune", description="Train the backbone further, teach a smaller one, or make it 8-bit."
    )
    distil: Distillation | None = None
    quantise: Quantisation = Quantisation()
    budget: Budget = Budget()
    start: Literal["pretrained", "champion"] = Field(
        "pretrained", description="Whose weights it begins with: version 1's, or the champion's."
    )
    unfreeze: Literal["all"] | Layers = Field("all", description="All layers, or so many from the top.")
    epochs: int = Field(10, ge=1, le=1000)
    batch_size: int = Field(32, ge=1, le=1024)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(3e-4, gt=0, le=1, description="The highest, after the warm-up.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Decoupled; not on biases and norms.")
    clip_norm: float | None = Field(1.0, gt=0, description="Largest norm of all gradients together.")
    warmup_epochs: float = Field(1.0, ge=0, le=100)
    patience: int = Field(4, ge=0, description="Epochs without progress before it stops; 0 never stops.")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    class_weights: Literal["none", "sqrt", "balanced"] = "sqrt"
    mixup: float = Field(0.0, ge=0, le=2, description="Alpha of the beta distribution; 0 is off.")
    replay: float = Field(1.0, gt=0, le=1, description="Share of the known images in each epoch.")
    stay_right: float = Field(0.25, ge=0, le=1, description="Weight of the champion's own answers.")
    augmentation: Augmentation = Augmentation()
    checkpoint_s: float = Field(60.0, ge=0, description="Seconds between checkpoints; 0: at each step.")
    memory_mb: int | None = Field(None, ge=256, description="Above this the run fails, with a sentence.")
    threads: int | None = Field(None, ge=1, le=256, description="Of the CPU; every core, if null.")
    deterministic: bool = Field(True, description="The same bits again on the same kind of machine.")

    @model_validator(mode="after")
    def _has_student(self) -> Self:
        if (self.method == "distil") != (self.distil is not None):
            raise ValueError("method `distil` needs the section `distil`, and no other takes it")
        return self

    @classmethod
    def parse(cls, name: str, values: Any) -> Self:
        """Check what a file or a row says, defaults filled in.

        Raises:
            InvalidRecipe: a key is unknown or a value is bad; the message names each.
        """
        if not isinstance(values, dict):
            raise InvalidRecipe(f"Recipe {name!r} is no mapping of keys to values.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            said = "; ".join(f"{_place(e['loc'])}: {_explain(e)}" for e in error.errors())
            raise InvalidRecipe(f"Recipe {name!r} cannot be used. {said}.") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = [key.value for key, _ in node.value]
        for key in seen:
            if seen.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is there twice")
        return super().construct_mapping(node, deep)


def _place(location: tuple[int | str, ...]) -> str:
    names = [str(part) for part in location if part not in ("constrained-int", "literal['all']")]
    return ".".join(names) or "it"


def _explain(error: Any) -> str:
    return "there is no such key" if error["type"] == "extra_forbidden" else str(error["msg"])


def read_recipe(said: dict[str, Any] | None) -> Recipe | None:
    """The recipe that a run was made by; none for a head run, or before it was claimed."""
    return Recipe.parse(said["name"], said["content"]) if said and "content" in said else None


def load_recipe(name: str, folder: Path | None) -> Recipe:
    """Read `<name>.yaml` from the installation's own folder, else from those that come with Backtalk.

    Raises:
        UnknownRecipe: there is none; the message lists those that there are.
        InvalidRecipe: it is no YAML, has an unknown key or a bad value.
    """
    found = _find(name, folder) if _NAME.fullmatch(name) else None
    if found is None:
        known = ", ".join(list_recipes(folder))
        raise UnknownRecipe(f"There is no recipe {name!r}. Use one of: {known}.")
    with found.open("rb") as file:
        text = file.read(_LARGEST_BYTES)
    try:
        values = yaml.load(text, _Loader)  # noqa: S506  # it is a safe one
    except yaml.YAMLError as error:
        raise InvalidRecipe(f"Recipe {name!r} is no YAML: {' '.join(str(error).split())}.") from None
    return Recipe.parse(name, values)


def list_recipes(folder: Path | None) -> list[str]:
    """Names, sorted."""
    return sorted({f.name.removesuffix(".yaml") for place in _places(folder) for f in _files(place)})


def _find(name: str, folder: Path | None) -> Traversable | None:
    for place in _places(folder):
        for file in _files(place):
            if file.name == f"{name}.yaml":
                return file
    return None


def _places(folder: Path | None) -> list[Traversable]:
    shipped = importlib.resources.files("configs") / "recipes"
    return [folder, shipped] if folder is not None else [shipped]


def _files(place: Traversable) -> list[Traversable]:
    if not place.is_dir():
        return []
    return [f for f in place.iterdir() if f.name.endswith(".yaml") and f.is_file()]
