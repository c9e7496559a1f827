"""Settings, from `BACKTALK_*` variables; a secret may come from the file that `BACKTALK_*_FILE` names."""

import os
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from backtalk import failpoints

PREFIX = "BACKTALK_"
Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """Everything that differs between two installations. Refuses bad values at start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    home: Path = Field(Path(".backtalk"), description="Where the one-machine stack keeps its data.")
    database_url: str | None = Field(None, description="postgresql+psycopg://…; embedded Postgres if unset.")
    migration_url: str | None = Field(
        None, description="The same database as the owner of its tables; for `backtalk migrate` alone."
    )
    redis_url: str | None = Field(None, description="redis://…; embedded Redis if unset.")
    store: Path | None = Field(None, description="Versions and backbones; $BACKTALK_HOME/models_store.")
    store_readonly: bool = Field(
        False, description="This process never writes the store; a worker publishes what it promotes."
    )
    images: Path | None = Field(None, description="Images as they came; $BACKTALK_HOME/images.")
    recipes: Path | None = Field(None, description="Recipes of one's own; they come before ours.")
    serving_prefix: str = Field(
        "/models", pattern=r'^/[^"\\\s]*$', description="Where TensorFlow Serving sees the store."
    )

    api_host: str = "127.0.0.1"
    api_port: int = Field(8000, ge=0, le=65535)
    api_threads: int = Field(8, ge=1, le=256, description="Requests worked on at a time.")
    max_in_flight: int = Field(
        64, ge=1, le=4096, description="Requests read, waiting or worked on at a time."
    )
    max_bytes_in_flight: int = Field(256 * 2**20, ge=1024, description="In the bodies of those, in bytes.")
    min_free_bytes: int = Field(
        256 * 2**20, ge=0, description="With less on the disks of images or versions no picture is taken in."
    )
    body_timeout_s: float = Field(30.0, gt=0, description="How long a client may take to send a body.")
    api_grace_s: float = Field(40.0, gt=0, description="How long a stopping API may finish its answers.")
    inference_threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=256, description="Interpreters per backbone."
    )
    cookie_secure: bool = Field(False, description="All cookies get `Secure`, whatever a request came over.")
    tls_cert: Path | None = Field(None, description="Certificate with its chain, PEM: HTTPS instead of HTTP.")
    tls_key: Path | None = Field(None, description="Its key, PEM, without a password.")
    trusted_proxies: str | None = Field(
        None, description="Addresses and networks, by commas, whose X-Forwarded-For and -Proto are believed."
    )

    max_image_bytes: int = Field(20 * 2**20, ge=1024, description="Largest upload, in bytes.")
    max_pixels: int = Field(25_000_000, ge=1, description="Largest image, in pixels.")
    large_images_at_once: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=256,
        description="Images of over 2 megapixels decoded at the same time.",
    )
    feedback_per_minute: int = Field(600, ge=1, description="Feedback calls a minute and key.")
    predict_per_minute: int | None = Field(None, ge=1, description="Predictions a minute and key; no limit.")

    feedback_wait_days: float = Field(
        7.0,
        ge=0,
        le=36_500,
        description="Under keep_images=feedback, how long somebody has to speak before the pixels go.",
    )

    poll_s: float = Field(1.0, gt=0, le=60, description="How often a replica asks for the generation.")
    lease_s: float = Field(90.0, gt=1, description="A run without a heartbeat for so long is dead.")
    stuck_s: float = Field(900.0, gt=1, description="A run without progress for so long is stuck.")
    ring_again_s: float = Field(30.0, gt=0, description="A run that no worker heard of is rung for again.")
    max_attempts: int = Field(3, ge=1, description="Attempts of one run before it fails.")
    warm_trainer: bool = Field(True, description="Keep the next head trainer waiting with TensorFlow loaded.")
    worker_grace_s: float = Field(
        60.0,
        ge=0,
        description="How long a stopping worker may finish its task; what it leaves is taken up again.",
    )
    author: str | None = Field(None, max_length=200, description="Whom files for devices name as author.")
    licence: str | None = Field(None, max_length=2000, description="Which licence files for devices name.")
    tensorboard: bool = Field(True, description="Write TensorBoard logs of every run, in the home.")
    tensorboard_url: str = Field(
        "http://127.0.0.1:6006",
        pattern=r"^https?://[^\s?#]+$",
        description="Where people reach `backtalk tensorboard`: the page of a run links to it.",
    )
    mlflow: bool = Field(False, description="Record runs in MLflow; MLFLOW_TRACKING_URI says where.")
    log_level: str = "INFO"

    failpoints: str | None = Field(None, description="For tests of faults: see backtalk/failpoints.py.")
    failpoint_log: Path | None = Field(None, description="For tests: a line for each failpoint that is hit.")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS needs both BACKTALK_TLS_CERT and BACKTALK_TLS_KEY (--tls-cert, --tls-key)")
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _known_networks(cls, value: str | None) -> str | None:
        _read_networks(value or "")
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        level = value.upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("use DEBUG, INFO, WARNING or ERROR")
        return level

    @field_validator("failpoints")
    @classmethod
    def _known_failpoints(cls, value: str | None) -> str | None:
        failpoints.parse(value or "")
        return value

    @field_validator("database_url", "migration_url")
    @classmethod
    def _psycopg_driver(cls, value: str | None) -> str | None:
        if value is None:
            return None
        for scheme in ("postgresql://", "postgres://"):
            if value.startswith(scheme):
                return "postgresql+psycopg://" + value.removeprefix(scheme)
        if not value.startswith("postgresql+psycopg://"):
            raise ValueError("expected postgresql://user:password@host:port/database")
        return value

    @property
    def trusted_networks(self) -> list[Network]:
        return _read_networks(self.trusted_proxies or "")

    @property
    def store_path(self) -> Path:
        return (self.store or self.home / "models_store").absolute()

    @property
    def images_path(self) -> Path:
        return (self.images or self.home / "images").absolute()

    @property
    def boards_path(self) -> Path:
        """Where TensorBoard finds the logs of all runs."""
        return (self.home / "tensorboard").absolute()

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment.

        Raises:
            ValueError: a setting is unknown, or its value is bad; the message names the variable.
        """
        values = _read_secret_files() | overrides
        _refuse_unknown(cls)
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [_describe(e["loc"], e["msg"]) for e in error.errors()]
            raise ValueError("bad settings:\n  " + "\n  ".join(lines)) from None


def _describe(location: tuple[int | str, ...], message: str) -> str:
    return f"{PREFIX}{str(location[0]).upper()}: {message}" if location else message


def _read_networks(text: str) -> list[Network]:
    """Raises ValueError: one of them is neither an address nor a network."""
    return [ip_network(part.strip()) for part in text.split(",") if part.strip()]


def _read_secret_files() -> dict[str, str]:
    values = {}
    for name, path in os.environ.items():
        if name.startswith(PREFIX) and name.endswith("_FILE"):
            try:
                text = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ValueError(f"{name}: cannot read {path}: {error.strerror}") from None
            values[name.removeprefix(PREFIX).removesuffix("_FILE").lower()] = text
    return values


def _refuse_unknown(settings: type[Settings]) -> None:
    known = {PREFIX + field.upper() for field in settings.model_fields}
    known |= {name + "_FILE" for name in known}
    unknown = sorted(n for n in os.environ if n.startswith(PREFIX) and n not in known)
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(unknown)}; see docs/settings.md")
