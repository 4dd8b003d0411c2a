"""The commented configuration file that the program prints."""

import re
import tomllib
from pathlib import Path

from pyatm.config import load_settings
from tests.cli.programs import Program


def test_the_example_as_printed_changes_no_setting(tmp_path: Path) -> None:
    printed = Program().run("config", "example")
    assert printed.returncode == 0, printed.stderr
    assert tomllib.loads(printed.stdout) == {"poller": {}, "vdsm": {}}
    assert "# How long a pool stays ours after the last report.\n# lease = 30.0" in printed.stdout


def test_every_setting_of_the_example_can_be_uncommented(tmp_path: Path) -> None:
    printed = Program().run("config", "example").stdout
    file = tmp_path / "pyatm.toml"
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", printed, flags=re.MULTILINE))
    settings = load_settings(file)
    defaults = load_settings()
    assert settings.poller.lease == defaults.poller.lease
    assert settings.vdsm.ca == Path("/etc/pki/vdsm/certs/cacert.pem")
    assert settings.poller.model_dump(exclude={"name", "metrics_port"}) == (
        defaults.poller.model_dump(exclude={"name", "metrics_port"})
    )
    assert set(tomllib.loads(file.read_text())) == set(type(settings).model_fields)
