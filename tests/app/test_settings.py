import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, SettingsInvalid, load_settings, make_cache_dir
from tests.container.compose import read_service


def test_without_variables_the_service_listens_on_this_machine_only_and_refuses_non_xrays() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.acceptance == "enforce"
    assert settings.model_version is None


def test_the_default_store_is_beside_the_package() -> None:
    assert load_settings().model_store == Path(__file__).parents[2] / "model_store"


def test_a_variable_sets_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVID_XRAY_PORT", "9000")
    monkeypatch.setenv("COVID_XRAY_ACCEPTANCE", "warn")
    monkeypatch.setenv("COVID_XRAY_MODEL_VERSION", "3")
    settings = load_settings()
    assert (settings.port, settings.acceptance, settings.model_version) == (9000, "warn", 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "http"),
        ("ENGINE", "onnx"),
        ("ACCEPTANCE", "ignore"),
        ("THREADS", "0"),
        ("MODEL_NAME", "../other"),
        ("REQUEST_TIMEOUT_S", "-1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"COVID_XRAY_{name}", value)
    with pytest.raises(SettingsInvalid, match=rf"COVID_XRAY_{name}: .*; received '{value}'\."):
        load_settings()


NUMBERS = [
    name
    for name, value in Settings().model_dump().items()
    if type(value) in (int, float) or name in ("model_version", "threads")
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", "-1", "1e400", f"{10**30}", "1e30", "9" * 5000, "", "  ", "1,5"]
)
def test_no_number_that_is_endless_or_absurd_can_be_used(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"COVID_XRAY_{name.upper()}", value)
    with pytest.raises(SettingsInvalid, match=rf"^COVID_XRAY_{name.upper()}: .*; received "):
        load_settings()


@pytest.mark.parametrize("name", NUMBERS)
def test_zero_is_used_only_where_it_says_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"COVID_XRAY_{name.upper()}", "0")
    if name in ("follow_s", "leaving_s", "shutdown_timeout_s", "outbox_close_s"):
        assert getattr(load_settings(), name) == 0
    else:
        with pytest.raises(SettingsInvalid, match=f"COVID_XRAY_{name.upper()}: "):
            load_settings()


def test_the_folder_for_compiled_networks_is_made(tmp_path: Path) -> None:
    make_cache_dir(Settings(cache_dir=tmp_path / "a" / "b"))
    make_cache_dir(Settings(cache_dir=tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
    make_cache_dir(Settings())


@pytest.mark.parametrize("below", ["", "below"])
def test_a_folder_for_compiled_networks_that_can_be_none_is_named(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / below
    with pytest.raises(SettingsInvalid, match=rf"COVID_XRAY_CACHE_DIR: .*; received {folder} \("):
        make_cache_dir(Settings(cache_dir=folder))


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every folder")
def test_a_folder_for_compiled_networks_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    with pytest.raises(SettingsInvalid, match="Permission denied"):
        make_cache_dir(Settings(cache_dir=tmp_path))


def test_a_misspelt_variable_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVID_XRAY_PROT", "9000")
    with pytest.raises(SettingsInvalid, match="did you mean COVID_XRAY_PORT"):
        load_settings()


def test_a_queue_that_no_batch_fits_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVID_XRAY_QUEUE_LIMIT", "3")
    with pytest.raises(SettingsInvalid, match=r"at least max_batch \(16\); received 3"):
        load_settings()


@pytest.mark.parametrize("name", ["DOCS", "METRICS"])
def test_what_needs_a_key_needs_a_file_of_keys(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"COVID_XRAY_{name}", "key")
    with pytest.raises(SettingsInvalid, match="api_keys_file"):
        load_settings()


def test_an_outbox_that_no_batch_fits_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVID_XRAY_OUTBOX_ITEMS", "3")
    with pytest.raises(SettingsInvalid, match=r"at least max_batch \(16\); received 3"):
        load_settings()


def test_a_user_of_dicomweb_needs_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVID_XRAY_DICOMWEB_USER", "me")
    with pytest.raises(SettingsInvalid, match="dicomweb_secret_file"):
        load_settings()


def test_a_memory_that_no_upload_fits_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVID_XRAY_UPLOAD_MEMORY_BYTES", "2000")
    with pytest.raises(SettingsInvalid, match=r"at least max_upload_bytes .*; received 2000"):
        load_settings()


def test_a_stop_waits_as_long_as_a_request_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert settings.shutdown_timeout_s >= settings.request_timeout_s
    monkeypatch.setenv("COVID_XRAY_REQUEST_TIMEOUT_S", "50.5")
    assert load_settings().shutdown_timeout_s == 51
    monkeypatch.setenv("COVID_XRAY_SHUTDOWN_TIMEOUT_S", "5")
    assert load_settings().shutdown_timeout_s == 5


def test_compose_waits_for_all_that_a_stop_may_take() -> None:
    settings = load_settings()
    otlp_s = 10  # OpenTelemetry's default
    stops_within = (
        settings.leaving_s + settings.shutdown_timeout_s + settings.outbox_close_s + otlp_s
    )
    assert int(read_service()["stop_grace_period"].removesuffix("s")) > stops_within


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_every_field_is_documented() -> None:
    assert all(field.description for field in Settings.model_fields.values())
