"""Settings: the order of their sources, and errors that name the setting and the fix."""

from pathlib import Path

import pytest

from pyatm.config import ConfigurationError, load_settings


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("PYATM_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pyatm.toml"
    path.write_text(text)
    return path


def test_flags_win_over_the_environment_over_credentials_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path, 'dsn = "host=file"\n[poller]\nname = "file"\nmax_pools = 7\n')
    found = load_settings(file)
    assert found.dsn is not None
    assert found.dsn.get_secret_value() == "host=file"

    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "dsn").write_text("host=credential\n")
    (credentials / "vdsm.key").write_text("key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    found = load_settings(file)
    assert found.dsn is not None
    assert found.dsn.get_secret_value() == "host=credential"
    assert found.vdsm.key == credentials / "vdsm.key"

    monkeypatch.setenv("PYATM_DSN", "host=environment")
    monkeypatch.setenv("PYATM_POLLER__NAME", "environment")
    found = load_settings(file)
    assert found.dsn is not None
    assert found.dsn.get_secret_value() == "host=environment"
    assert (found.poller.name, found.poller.max_pools) == ("environment", 7)

    found = load_settings(file, dsn="host=flag", poller={"max_pools": 9})
    assert found.dsn is not None
    assert found.dsn.get_secret_value() == "host=flag"
    assert (found.poller.name, found.poller.max_pools) == ("environment", 9)


def test_the_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(tmp_path, "[poller]\nmax_pools = 3\n")
    monkeypatch.setenv("PYATM_CONFIG", str(file))
    assert load_settings().poller.max_pools == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1", "nonsense: is not a setting"),
        ("[poller]\nnonsense = 1", "poller.nonsense: is not a setting"),
        ("[poller]\nlease = 1", r"poller\.lease: .*greater than or equal to 3"),
        ("[poller]\nlease = 'soon'", r"poller\.lease: .*PYATM_POLLER__LEASE"),
        ("[poller]\npoll_interval_min = 11", "poll_interval_min must not be above"),
        ("[poller]\nlease = 15", "lease must be at least twice poll_interval_max"),
        ("[poller", "cannot read .*pyatm.toml"),
        ("dsn = 5", "dsn: .*string"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_settings(_file(tmp_path, text))
    assert "pyatm.toml" in str(caught.value)


def test_secrets_do_not_show_in_the_settings_or_in_errors(tmp_path: Path) -> None:
    file = _file(tmp_path, 'dsn = "password=open-sesame"\nlisten_dsn = ["open-sesame"]\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)
    assert "open-sesame" not in str(caught.value)
    assert "open-sesame" not in repr(load_settings(None, dsn="password=open-sesame"))
