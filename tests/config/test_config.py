from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpu_exporter.config import MODELS, SOURCES, Config, ConfigError, changed, load, read_yaml, settings
from gpu_exporter.config.parsers import Address, duration
from gpu_exporter.http.access import check as check_access
from gpu_exporter.hub.nodes import load as load_nodes

BAD = Path(__file__).parent / "bad"


def _nested(key: str) -> str:
    section, _, name = key.rpartition(".")
    return f"{section}: {{{name}: %s}}" if section else f"{name}: %s"


NO_ADDRESS = "is not an address; write :9435, 127.0.0.1:9435 or '[::1]:9435'"
# One file a mistake; what its message says after the file's name.
MESSAGES = {
    "ratio-too-large": "accounting.active_ratio: '5' is not a share; write a number from 0 to 1, such as 0.05",
    "ratio-is-text": "accounting.active_ratio: 'half' is not a share; write a number from 0 to 1, such as 0.05",
    "ratio-is-switch": "accounting.active_ratio: 'true' is not a share; write a number from 0 to 1, such as 0.05",
    "size-unit": "accounting.held_bytes: '256MB' is not a size; write bytes, or 256MiB",
    "size-negative": "accounting.held_bytes: '-1' is not a size; write bytes, or 256MiB",
    "unknown-label": "processes.labels: 'argv' is not known; "
    "write some of pid, process, user, container, pod, namespace, slurm_job",
    "labels-is-number": "processes.labels: '3' is not a list; "
    "write some of pid, process, user, container, pod, namespace, slurm_job",
    "resources-empty": "owners.kubernetes_resources: '[]' is not a list of names; write ['nvidia.com/gpu']",
    "resources-with-space": "owners.kubernetes_resources: 'nvidia.com/ gpu' is not a name; write one without spaces",
    "address-bad-ipv6": f"web.listen_address: '[::1::2]:9435' {NO_ADDRESS}",
    "address-is-port": f"web.listen_address: '9435' {NO_ADDRESS}",
    "address-is-url": f"web.listen_address: 'http://localhost:9435' {NO_ADDRESS}",
    "address-port-too-high": f"web.listen_address: '127.0.0.1:99999' {NO_ADDRESS}",
    "address-without-port": f"web.listen_address: 'localhost' {NO_ADDRESS}",
    "alias": "is not YAML: line 3, column 6: aliases are not taken; write the value out",
    "bad-tag": "is not YAML: line 2, column 9: 'eight' is not a value; put text in quotes",
    "binary": "is not text; write YAML in UTF-8",
    "bool-as-integer": "fake.gpus: 'true' is not a whole number from 1 to 1024",
    "cidr-host-bits": "web.allow: '10.0.0.1/8' is not a network in CIDR form; write 10.0.0.0/8, or 10.0.0.1 for this "
    "address alone",
    "cidr-is-mapping": "web.allow: '{'from': '10.0.0.0/8'}' is not a list of networks; write ['10.0.0.0/8', '::1/128']",
    "cidr-is-number": "web.allow: '10' is not a network in CIDR form; write 10.0.0.0/8 or ::1/128",
    "cidr-too-long": "web.allow: '192.168.0.0/33' is not a network in CIDR form; write 10.0.0.0/8 or ::1/128",
    "control-character": "is not YAML: special characters are not allowed",
    "duplicate-key": "is not YAML: line 4, column 3: 'interval' is written twice",
    "duplicate-section": "is not YAML: line 5, column 1: 'log' is written twice",
    "duration-bool": "collection.interval: 'true' is not a duration; write 5s, 500ms or 1m",
    "duration-repeated-unit": "collection.interval: '1s1s' is not a duration; write 5s, 500ms or 1m",
    "duration-too-long": "collection.pause: '48h' is out of range; write 1s to 24h",
    "duration-too-short": "collection.interval: '1ms' is out of range; write 100ms to 1h",
    "duration-unknown-unit": "collection.interval: '5 seconds' is not a duration; write 5s, 500ms or 1m",
    "duration-without-unit": "collection.interval: '5' is not a duration; write 5s, 500ms or 1m",
    "duration-wrong-order": "collection.interval: '30s1m' is not a duration; write 5s, 500ms or 1m",
    "enormous-integer": f"is not YAML: line 2, column 9: '0x{'f' * 78}…' is not a value; put text in quotes",
    "escape-out-of-range": "is not YAML: an escape or a number in it is out of range",
    "fraction-as-integer": "fake.gpus: '8.5' is not a whole number from 1 to 1024",
    "impossible-date": "is not YAML: line 1, column 9: '2026-13-45' is not a value; put text in quotes",
    "integer-out-of-range": "fake.gpus: '0' is not a whole number from 1 to 1024",
    "latin-1": "is not text; write YAML in UTF-8",
    "list-as-integer": "collection.expected_gpus: '[8]' is not a whole number from 0 to 4096",
    "list-as-key": "is not YAML: line 1, column 3: found unhashable key",
    "list-document": "the file is a list; write keys such as source, require_gpu, compat, collection, web, processes, "
    "owners, accounting, host, smi, dcgm, fake, log",
    "nested-too-deeply": "is not YAML: line 2, column 23: nested too deeply",
    "not-closed": "is not YAML: line 3, column 4: expected ',' or ']', but got ':'",
    "number-as-path": "fake.scenario: '7' is not a file; write a path",
    "number-as-switch": "require_gpu: '1' is not a switch; write true or false",
    "python-object": (
        "is not YAML: line 1, column 9: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.system'"
    ),
    "section-is-list": "web is a list; write keys such as listen_address, telemetry_path, allow, config_file",
    "section-is-number": "fake is a single value; write keys such as gpus, model, seed, owners, scenario",
    "section-is-text": "collection is text; write keys such as interval, timeout, pause, expected_gpus, kernel_log, "
    "let_sleep",
    "tabs": "is not YAML: line 2, column 1: found character '\\t' that cannot start any token",
    "text-document": "the file is text; write keys such as source, require_gpu, compat, collection, web, processes, "
    "owners, accounting, host, smi, dcgm, fake, log",
    "timeout-over-default-interval": "collection.timeout: '10s' is longer than collection.interval; write at most 5s",
    "timeout-over-interval": "collection.timeout: '1m30s' is longer than collection.interval; write at most 5s",
    "two-documents": "is not YAML: line 2, column 1: found another document",
    "unknown-format": "log.format: 'yaml' is not known; write one of logfmt, json",
    "unknown-inner-key": "collection.period: unknown key; write one of interval, timeout, pause, expected_gpus, "
    "kernel_log, let_sleep",
    "unknown-key": "collector: unknown key; write one of source, require_gpu, compat, collection, web, processes, "
    "owners, accounting, host, smi, dcgm, fake, log",
    "unknown-level": "log.level: 'trace' is not known; write one of debug, info, warning, error",
    "unknown-model": f"fake.model: 'H100' is not known; write one of {', '.join(MODELS)}",
    "unknown-number-key": "5: unknown key; write one of source, require_gpu, compat, collection, web, processes, "
    "owners, accounting, host, smi, dcgm, fake, log",
    "unknown-source": f"source: 'rocm' is not known; write one of auto, {', '.join(SOURCES)}",
    "unprintable-path": "fake.scenario: 'a\\x00b' is not a file; write a path",
    "url-path-relative": "web.telemetry_path: 'metrics' is not a URL path; write one such as /metrics",
    "url-path-taken": "web.telemetry_path: '/livez' is taken by another page; write one such as /metrics",
    "word-as-switch": "require_gpu: 'maybe' is not a switch; write true or false",
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


def refusal(path: Path | None, overrides: dict[str, tuple[str, str]] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides or {})
    return str(caught.value)


# --- files ------------------------------------------------------------------------------------------------------------


def test_every_bad_file_has_a_message() -> None:
    assert {path.stem for path in BAD.iterdir()} == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_bad_file_is_refused_with_its_message(name: str) -> None:
    path = BAD / f"{name}.yaml"
    assert refusal(path) == f"{path}: {MESSAGES[name]}"


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_one_short_printable_line(name: str) -> None:
    message = refusal(BAD / f"{name}.yaml").removeprefix(str(BAD))
    assert message.isprintable()
    assert len(message) < 200


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "web:\n", "collection:\n  interval:\n", "\ufeff"])
def test_what_is_left_empty_keeps_its_default(write: Any, text: str) -> None:
    assert load(write(text)) == Config()


def test_a_whole_file_is_read(write: Any) -> None:
    config = load(
        write(
            """
source: fake
require_gpu: true
collection: {interval: 10s, timeout: 2s500ms, pause: 1h, expected_gpus: 8}
web: {listen_address: "[::1]:80", telemetry_path: /gpu/metrics, allow: [10.0.0.0/8, "::1"]}
fake: {gpus: 2, model: a100, seed: 7, scenario: night.yaml}
log: {level: debug, format: json}
"""
        )
    )
    assert (config.source, config.require_gpu) == ("fake", True)
    assert (config.collection.interval, config.collection.timeout, config.collection.pause) == (10.0, 2.5, 3600.0)
    assert config.collection.expected_gpus == 8
    assert config.web.listen_address == (Address("::1", 80),)
    assert config.web.telemetry_path == "/gpu/metrics"
    assert config.web.allow == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert (config.fake.gpus, config.fake.model, config.fake.seed) == (2, "a100", 7)
    assert config.fake.scenario == Path("night.yaml")
    assert (config.log.level, config.log.format) == ("debug", "json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.yaml") == f"{tmp_path}/no.yaml: cannot be read: No such file or directory"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(write: Any) -> None:
    path = write("source: fake\n")
    path.chmod(0)
    assert refusal(path) == f"{path}: cannot be read: Permission denied"


def test_an_endless_file_is_refused() -> None:
    assert refusal(Path("/dev/zero")) == "/dev/zero: is larger than 256 KiB; is it the right file?"


def test_a_billion_laughs_cost_nothing(write: Any) -> None:
    lines = ["a0: &a0 [ha, ha]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    path = write("\n".join(lines))
    assert refusal(path) == f"{path}: is not YAML: line 2, column 10: aliases are not taken; write the value out"


# --- values -----------------------------------------------------------------------------------------------------------


def test_defaults_are_what_the_documentation_shows() -> None:
    default = Config()
    for setting in settings():
        section, _, name = setting.key.rpartition(".")
        value = getattr(getattr(default, section) if section else default, name)
        if not setting.shown:
            assert not value, setting.key
        else:
            assert setting.parse(setting.shown) == value, setting.key


def test_every_setting_is_listed_once() -> None:
    keys = [setting.key for setting in settings()]
    default = Config()
    expected = []
    for entry in fields(default):
        value = getattr(default, entry.name)
        nested = is_dataclass(value) and not entry.metadata
        expected += [f"{entry.name}.{inner.name}" for inner in fields(value)] if nested else [entry.name]
    assert keys == expected


def test_flags_and_variables_are_named_after_the_key() -> None:
    setting = next(setting for setting in settings() if setting.key == "web.listen_address")
    assert (setting.flag, setting.variable) == ("--web.listen-address", "GPU_EXPORTER_WEB_LISTEN_ADDRESS")


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 999))
def test_durations_add_up(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    counts = {"h": hours, "m": minutes, "s": seconds, "ms": milliseconds}
    text = "".join(f"{count}{unit}" for unit, count in counts.items() if count)
    if text:
        assert duration(text) == pytest.approx(3600 * hours + 60 * minutes + seconds + milliseconds / 1000)


@given(st.floats(0.1, 3600, allow_subnormal=False).map(lambda value: round(value, 3)))
def test_a_duration_survives_the_round_trip(seconds: float) -> None:
    config = load(None, {"collection.interval": ("--collection.interval", f"{seconds}s")})
    assert config.collection.interval == seconds


@pytest.mark.parametrize(
    "text", ["", " 5s", "5s ", "s", "-5s", "5 s", "\u0665s", "1e3s", "5s\n", ".5s", "1m1m", "1s1h"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write 5s, 500ms or 1m$"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":9435", Address("", 9435)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),  # noqa: S104 - what users write
        ("gpu-3.lab_a.example:1", Address("gpu-3.lab_a.example", 1)),
        ("[fe80::1]:65535", Address("fe80::1", 65535)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    (address,) = load(None, {"web.listen_address": ("flag", text)}).web.listen_address
    assert address == expected
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", ":", ":\u0669", "::1:80", "[::1]", "[]:80", "a b:80", ":9435\n", "host:-1", ":123456"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert "is not an address" in refusal(None, {"web.listen_address": ("flag", text)})


@pytest.mark.parametrize("text", ["", " ", ",", "10.0.0.0/8,"])
def test_an_empty_network_in_a_flag_does_not_let_everybody_in(text: str) -> None:
    assert "is not a network in CIDR form" in refusal(None, {"web.allow": ("flag", text)})


def test_networks_in_a_flag_are_separated_by_commas() -> None:
    config = load(None, {"web.allow": ("flag", "10.0.0.0/8, ::1/128")})
    assert config.web.allow == (ip_network("10.0.0.0/8"), ip_network("::1/128"))


# --- flags, file, defaults --------------------------------------------------------------------------------------------


def test_flags_go_over_the_file(write: Any) -> None:
    path = write("fake: {gpus: 4, seed: 5}\nlog: {level: debug}\n")
    config = load(path, {"fake.gpus": ("--fake.gpus", "16"), "require_gpu": ("--require-gpu", "true")})
    assert (config.fake.gpus, config.fake.seed) == (16, 5)
    assert config.log.level == "debug"
    assert config.require_gpu


def test_a_bad_flag_names_itself() -> None:
    message = refusal(None, {"fake.gpus": ("GPU_EXPORTER_FAKE_GPUS", "many")})
    assert message == "GPU_EXPORTER_FAKE_GPUS: 'many' is not a whole number from 1 to 1024"


def test_a_flag_does_not_hide_a_mistake_in_the_file() -> None:
    path = BAD / "fraction-as-integer.yaml"
    assert refusal(path, {"fake.gpus": ("--fake.gpus", "2")}) == f"{path}: {MESSAGES['fraction-as-integer']}"


def test_a_short_interval_shortens_the_default_timeout(write: Any) -> None:
    assert load(write("collection: {interval: 1s}\n")).collection.timeout == pytest.approx(0.6)
    assert load(write("collection: {interval: 4s}\n")).collection.timeout == 3.0


def test_a_timeout_that_was_written_is_never_shortened(write: Any) -> None:
    path = write("collection: {interval: 1s, timeout: 3s}\n")
    longer = "is longer than collection.interval; write at most 1s"
    assert refusal(path) == f"{path}: collection.timeout: '3s' {longer}"
    flag = {"collection.timeout": ("--collection.timeout", "2s")}
    assert refusal(path, flag) == f"--collection.timeout: '2s' {longer}"
    assert load(path, {"collection.timeout": ("--collection.timeout", "1s")}).collection.timeout == 1.0


def test_changed_names_the_settings_that_differ(write: Any) -> None:
    new = load(write("source: fake\ncollection: {interval: 10s}\nlog: {level: info}\n"))
    assert [setting.key for setting in changed(Config(), new)] == ["source", "collection.interval"]
    assert [setting.reload for setting in changed(Config(), new)] == [False, True]


# --- anything ---------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.binary(max_size=8)
keys = st.sampled_from([part for setting in settings() for part in setting.key.split(".")]) | scalars
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
# fmt: off
fragments = [
    *"-?:,[]{}#&*!|>'\"%@`\\ \t\n\r0159abnxUuoe.~<=", "\n  ", ": ", "- ", "<<: ", "? ", "&a ", "*a ", "\\x", "\\U",
    "!!int ", "!!float ", "!!bool ", "!!set ", "!!timestamp ", "!!binary ", "!!omap ", "!!pairs ", "!!map ", "!!seq ",
    "0x", "0b", "2026-13-45", "1:60", ".inf", "---\n", "...\n", "%YAML 1.",
    "collection:\n  ", "interval: ", "web: ", "allow: ", "fake:\n  gpus: ", "log: ", "source: ",
]
# fmt: on
yaml_text = st.lists(st.sampled_from(fragments) | st.characters(), max_size=24).map("".join)
anything = hypothesis_settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(text=yaml_text)
def test_any_text_gives_settings_or_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(load(path), Config)
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - both ends are right


@anything
@given(content=st.binary(max_size=64))
def test_any_bytes_give_settings_or_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(load(path), Config)
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - both ends are right


@anything
@given(document=values)
def test_any_document_gives_settings_or_a_config_error(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8", errors="replace")
    try:
        assert isinstance(load(path), Config)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both ends are right


@anything
@given(key=st.sampled_from([setting.key for setting in settings()]), text=st.text(max_size=20))
def test_any_flag_gives_settings_or_a_config_error(key: str, text: str) -> None:
    try:
        assert isinstance(load(None, {key: ("--flag", text)}), Config)
    except ConfigError as error:
        assert str(error).startswith("--flag: ")  # noqa: PT017 - both ends are right
        assert str(error).isprintable()  # noqa: PT017


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L"]), min_size=1), st.integers(-(2**63), 2**63) | st.booleans(), max_size=5
    )
)
@anything
def test_plain_documents_are_read_as_pyyaml_does(tmp_path: Path, document: dict[str, int]) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
    assert read_yaml(path) == document


@pytest.mark.parametrize("open_it", [read_yaml, check_access, load_nodes])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, open_it: Callable[[Path], object]) -> None:
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"pipe.json: cannot be read: not a regular file"):
        open_it(path)


# A value of each type that YAML has, and what only looks like one.
OF_EVERY_TYPE = (
    "~", "true", "7", "-1", "1.5", ".nan", ".inf", "1e400", "0x10", "18446744073709551615", "2026-01-01", "text", "''",
    "2026-01-01T00:00:00Z", "[]", "[a]", "[[a]]", "[1]", "[~]", "[{a: b}]", "{}", "{a: b}", "{1: 2}", "!!set {a}",
    "!!binary aGk=", "!!omap [a: b]", "!!pairs [a: b]", '"\\uD800"', '"\\0"', "!!float abc", "{<<: 3}", "!!bool x",
    "x" * 5000,
)  # fmt: skip
TLS_KEYS = (
    "cert", "key", "client_ca", "cert_file", "key_file", "client_ca_file", "client_auth_type", "client_allowed_sans",
    "min_version", "max_version", "cipher_suites", "prefer_server_cipher_suites", "curve_preferences",
)  # fmt: skip
# Whose file it is, and what is written around the value.
EVERY_KEY: list[tuple[Callable[[Path], object], str]] = [
    *((load, _nested(setting.key)) for setting in settings()),
    *((load, f"{section}: %s") for section in sorted({setting.key.partition(".")[0] for setting in settings()})),
    *((check_access, f"tls_server_config: {{cert_file: a, key_file: b, {key}: %s}}") for key in TLS_KEYS[5:]),
    *((check_access, f"tls_server_config: {{{key}: %s}}") for key in TLS_KEYS[:5]),
    *((check_access, f"rate_limit: {{{key}: %s}}") for key in ("burst", "interval")),
    *((check_access, f"http_server_config: {{{key}: %s}}") for key in ("http2", "headers")),
    *((check_access, f"{key}: %s") for key in ("tls_server_config", "http_server_config", "rate_limit")),
    (check_access, "http_server_config: {headers: {X-Frame-Options: %s}}"),
    (check_access, "basic_auth_users: %s"),
    (check_access, "basic_auth_users: {alice: %s}"),
    (load_nodes, "%s"),
    (load_nodes, "- targets: %s"),
    (load_nodes, "- targets: [%s]"),
    (load_nodes, "- {targets: ['a:1'], labels: %s}"),
    (load_nodes, "- {targets: ['a:1'], labels: {a: %s}}"),
]


@pytest.mark.parametrize(("open_it", "around"), EVERY_KEY)
def test_no_type_gets_past_the_checks(tmp_path: Path, open_it: Callable[[Path], object], around: str) -> None:
    """Taken, or refused in one line of bounded length: anything else would end a daemon that is told to reload."""
    path = tmp_path / "any.yml"
    for value in OF_EVERY_TYPE:
        path.write_text(around % value + "\n")
        try:
            open_it(path)
        except ConfigError as error:
            message = str(error)
            assert message.startswith(str(tmp_path)), message
            assert len(message.splitlines()) == 1, message
            assert len(message) <= 2001, message
