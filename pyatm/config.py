"""Settings: one TOML file, `PYATM_*` environment variables and flags, in rising order.

`load_settings` is the only way in. Every value is checked when it is read; a wrong one raises
`ConfigurationError`, which names the setting, where it came from as far as known, and the fix.
Secrets come from the file, from the environment or from systemd credentials, never from flags.
"""

import os
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

SYSTEM_CONFIG: Final = Path("/etc/pyatm/pyatm.toml")
"""Read when neither `--config` nor `PYATM_CONFIG` names another file."""


class ConfigurationError(Exception):
    """A setting is missing or wrong; the message names it and says what to do."""


def default_data_dir() -> Path:
    """Where the embedded server keeps its databases when `data_dir` is not set.

    An ordinary user's is `$XDG_DATA_HOME/pyatm` or `~/.local/share/pyatm`. PostgreSQL refuses to
    run as root and then runs as another user, who cannot enter `/root`: so root's is
    `/var/lib/pyatm`.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/pyatm")
    data_home = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share"
    return base / "pyatm"


class Section(BaseModel):
    """Base of the sections of the file: unknown keys are errors, values do not change."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class PollerSettings(Section):
    """`[poller]`: the daemon that polls VDSM. Times are in seconds."""

    name: str | None = Field(default=None, min_length=1, max_length=200)
    """Unique per process; left out, one is made of host name, process id and a random part."""
    max_pools: int = Field(default=200, ge=1, le=100_000)
    """Storage pools that this poller takes at most."""
    lease: float = Field(default=30.0, ge=3, le=3600)
    """How long a pool stays ours after the last report."""
    poll_interval_min: float = Field(default=1.0, gt=0, le=3600)
    """Between two polls of a pool in which something is about to change."""
    poll_interval_max: float = Field(default=10.0, gt=0, le=3600)
    """Between two polls of a pool in which nothing moves."""
    idle_interval: float = Field(default=60.0, gt=0, le=86400)
    """Between two checks of a pool that has no task at all."""
    rescan_interval: float = Field(default=5.0, gt=0, le=3600)
    """Between two looks for pools and work in the database when no NOTIFY comes."""
    database_timeout: float = Field(default=60.0, gt=0, le=3600)
    """For the database's answer to one call; then the connection is given up."""
    concurrency: int = Field(default=16, ge=1, le=1000)
    """Requests to VDSM in flight at most, over all pools."""
    metrics_address: str = "127.0.0.1"
    """Where the Prometheus page listens."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the Prometheus page; left out: no page, 0: any free port."""
    metrics_interval: float = Field(default=30.0, gt=0, le=3600)
    """Between two looks at the figures of the whole database for that page."""

    @model_validator(mode="after")
    def _ordered(self) -> "PollerSettings":
        if self.poll_interval_min > self.poll_interval_max:
            raise ValueError("poll_interval_min must not be above poll_interval_max")
        if self.lease < 2 * self.poll_interval_max:
            raise ValueError(
                "lease must be at least twice poll_interval_max, or a quiet pool would be lost "
                "between two polls"
            )
        return self


class VdsmSettings(Section):
    """`[vdsm]`: how to talk to VDSM. Times are in seconds."""

    tls: bool = True
    """False speaks plain TCP, for the simulator only."""
    certificate: Path | None = None
    """PEM file with our certificate; VDSM refuses clients without one."""
    key: Path | None = None
    """PEM file with its key, without pass phrase; left out: it is in the certificate's file."""
    ca: Path | None = None
    """PEM file with the CA that signed the hosts' certificates."""
    verify_host_name: bool = False
    """Off by default: VDSM's certificates often carry another name than the address we dial."""
    connect_timeout: float = Field(default=10.0, gt=0, le=600)
    """For TCP, TLS and STOMP set-up together."""
    request_timeout: float = Field(default=30.0, gt=0, le=3600)
    """For an answer to a request that VDSM answers at once."""
    heartbeat: float = Field(default=5.0, ge=0, le=600)
    """Interval of STOMP heart-beats in both directions, 0 switches them off."""


class Settings(BaseSettings):
    """All settings; top-level ones stand at the head of the file, sections below."""

    model_config = SettingsConfigDict(
        env_prefix="PYATM_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    dsn: SecretStr | None = None
    """A libpq connection string or URI; left out: the embedded server."""
    listen_dsn: SecretStr | None = None
    """A direct connection for LISTEN and migrations where `dsn` goes through a pooler."""
    data_dir: Path = Field(default_factory=default_data_dir)
    """Directory of the embedded server's files."""
    poller: PollerSettings = Field(default_factory=lambda: PollerSettings())
    vdsm: VdsmSettings = Field(default_factory=lambda: VdsmSettings())


def _credentials() -> dict[str, Any]:
    """What systemd's `LoadCredential=` handed over, under the names of the settings.

    `dsn` and `listen_dsn` are contents; `vdsm.crt`, `vdsm.key` and `ca.crt` are used in place.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    base = Path(directory)
    found: dict[str, Any] = {}
    for name in ("dsn", "listen_dsn"):
        file = base / name
        if file.is_file():
            found[name] = file.read_text(encoding="utf-8").strip()
    tls = {
        setting: base / name
        for setting, name in (("certificate", "vdsm.crt"), ("key", "vdsm.key"), ("ca", "ca.crt"))
        if (base / name).is_file()
    }
    if tls:
        found["vdsm"] = tls
    return found


def config_file(flag: Path | None = None) -> Path | None:
    """The configuration file in use: the flag's, `PYATM_CONFIG`'s, or the system's if it exists.

    Raises:
        ConfigurationError: the file that was named does not exist.
    """
    named = flag or (Path(value) if (value := os.environ.get("PYATM_CONFIG")) else None)
    if named is None:
        return SYSTEM_CONFIG if SYSTEM_CONFIG.is_file() else None
    if not named.is_file():
        source = "--config" if flag else "PYATM_CONFIG"
        raise ConfigurationError(f"{source} names {named}, which is not a file")
    return named


def load_settings(config: Path | None = None, **flags: object) -> Settings:
    """Read and check all settings.

    Args:
        config: the TOML file of `--config`; None looks at `PYATM_CONFIG` and the system's file.
        flags: settings given on the command line, by name; sections as dicts; None is not given.

    Raises:
        ConfigurationError: a value is wrong, a key unknown, a file unreadable or not TOML.
    """
    file = config_file(config)
    given = {name: value for name, value in flags.items() if value is not None}

    class Sources(Settings):
        """The settings with the sources of this call."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del init_settings, dotenv_settings, file_secret_settings
            return (
                InitSettingsSource(settings_cls, init_kwargs=given),
                env_settings,
                InitSettingsSource(settings_cls, init_kwargs=_credentials()),
                TomlConfigSettingsSource(settings_cls, toml_file=file),
            )

    try:
        return Sources()
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file)) from None
    except (OSError, ValueError) as error:
        where = f"cannot read {file}: " if file else ""
        raise ConfigurationError(f"{where}{error}") from None


def _explain(error: ValidationError, file: Path | None) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in problem["loc"]) or "settings"
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "is not a setting; see `pyatm config example`"
        variable = "PYATM_" + path.upper().replace(".", "__")
        lines.append(f"{path}: {text} (variable {variable}{f', file {file}' if file else ''})")
    return "\n".join(lines)
