"""What the instance says, checked at once."""

import re
from pathlib import Path

import pytest

from pyworker.core.benchmark import Statistic
from pyworker.settings import VARIABLES, Settings, SettingsError, setting

INSTANCE = {
    "CONTAINER_ID": "123",
    "MASTER_TOKEN": "secret-token",
    "PUBLIC_IPADDR": "1.2.3.4",
    "VAST_TCP_PORT_3000": "40123",
}


def test_an_instance() -> None:
    settings = Settings.from_env({**INSTANCE, "USE_SSL": "true", "REPORT_ADDR": "https://a/, https://b"})

    assert not settings.local
    assert settings.container_id == 123
    assert settings.public_url == "https://1.2.3.4:40123"
    assert settings.report_addrs == ("https://a", "https://b")
    assert (settings.worker_port, settings.http_port, settings.admin_port) == (3000, 3001, 3002)
    assert settings.workspace == Path("/workspace")
    assert "secret-token" not in repr(settings)
    assert settings.given == (
        "CONTAINER_ID", "MASTER_TOKEN", "REPORT_ADDR", "PUBLIC_IPADDR", "USE_SSL",
    )  # fmt: skip


def test_a_laptop_needs_no_setting() -> None:
    settings = Settings.from_env({})

    assert settings.local
    assert settings.report_addrs == ("http://127.0.0.1:8080",)
    assert settings.public_url == "http://127.0.0.1:3000"
    assert settings.workspace == Path(".pyworker")


def test_ports_follow_the_worker_port() -> None:
    settings = Settings.from_env(
        {**INSTANCE, "WORKER_PORT": "5000", "VAST_TCP_PORT_5000": "5005", "ADMIN_PORT": "99"}
    )

    assert settings.public_url == "http://1.2.3.4:5005"
    assert (settings.worker_port, settings.http_port, settings.admin_port) == (5000, 5001, 99)


def test_ipv6_addresses_get_their_brackets() -> None:
    assert Settings.from_env({**INSTANCE, "PUBLIC_IPADDR": "::1"}).public_url == "http://[::1]:40123"


def test_empty_is_unset_and_lines_are_patterns() -> None:
    settings = Settings.from_env(
        {"MODEL_LOG": " ", "MODEL_LOAD_LOG_MSG": "a b\n\nre:c\n", "BENCHMARK_STATISTIC": "max"}
    )

    assert settings.model_log is None
    assert settings.load_patterns == ("a b", "re:c")
    assert settings.benchmark_statistic is Statistic.MAX


def test_everything_wrong_is_said_at_once_and_secrets_are_hidden() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {
                "CONTAINER_ID": "x",
                "WORKER_PORT": "70000",
                "USE_SSL": "maybe",
                "REPORT_ADDR": "run.vast.ai",
                "DRAIN_TIMEOUT": "-1",
                "BENCHMARK_PERF": "fast",
                "BENCHMARK_STATISTIC": "mean",
                "MAX_BODY_SIZE": "-5",
                "PYWORKER_LOG_LEVEL": "LOUD",
                "PYWORKER_LOG_FORMAT": "xml",
            }
        )

    assert sorted(caught.value.problems) == sorted([
        "CONTAINER_ID='x': must be a whole number",
        "WORKER_PORT='70000': must be a port, 1 to 65535",
        "USE_SSL='maybe': must be true or false",
        "PUBLIC_IPADDR is not set: clients would not know where this worker is",
        "VAST_TCP_PORT_3000 is not set: the template must publish port 3000 (docker option -p 3000:3000)",
        "REPORT_ADDR='run.vast.ai': 'run.vast.ai' is not an http:// or https:// URL",
        "BENCHMARK_PERF='fast': must be a number",
        "BENCHMARK_STATISTIC='mean': must be median or max",
        "DRAIN_TIMEOUT='-1': must be more than 0",
        "MAX_BODY_SIZE='-5': must be 0 or more",
        "PYWORKER_LOG_LEVEL='LOUD': must be DEBUG, INFO, WARNING or ERROR",
        "PYWORKER_LOG_FORMAT='xml': must be text or json",
    ])  # fmt: skip


def test_handlers_read_settings_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SETTING", "x")
    monkeypatch.setenv("MY_EMPTY", "")

    monkeypatch.setenv("MY_NUMBER", "5")
    monkeypatch.setenv("MY_FLAG", "yes")

    assert [setting("MY_SETTING", "d"), setting("MY_EMPTY", "d"), setting("MY_NONE", "")] == ["x", "d", ""]
    assert [setting("MY_NUMBER", 8), setting("MY_NUMBER", 0.5), setting("MY_FLAG", False)] == [5, 5.0, True]
    with pytest.raises(SettingsError, match="MY_SETTING='x': must be a whole number"):
        setting("MY_SETTING", 8)
    with pytest.raises(SettingsError, match="MY_SETTING='x': must be true or false"):
        setting("MY_SETTING", True)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"MODEL_ERROR_LOG_MSGS": "re:("}, "must be log patterns, one a line"),
        ({"MODEL_HEALTH_ENDPOINT": "health"}, "must be a path that starts with /, or a URL"),
        ({"PUBLIC_IPADDR": "a b["}, "PUBLIC_IPADDR='a b[': must be an address or a host name"),
        ({"ADMIN_PORT": "3000"}, "WORKER_PORT, WORKER_HTTP_PORT and ADMIN_PORT must differ"),
    ],
    ids=["pattern", "health", "address", "ports"],
)
def test_what_would_fail_later_is_said_at_once(change: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(problem)):
        Settings.from_env({**INSTANCE, **change})


def test_every_variable_says_what_it_means() -> None:
    assert all(variable.meaning for variable in VARIABLES)
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)
