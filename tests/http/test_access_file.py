"""The web configuration file: what is taken, and the one line for what is not."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from tools.lab import ROOT
from tools.lab.exporter import environment, run

from certificates import Site, hashed
from gpu_exporter.config import ConfigError
from gpu_exporter.http.access import Gate, check, file

BAD = Path(__file__).parents[1] / "config" / "bad_web"
# One file a mistake; what its message says after the file's name.
MESSAGES = {
    "auth-type": (
        "tls_server_config.client_auth_type: 'require' is not known; write one of NoClientCert, "
        "VerifyClientCertIfGiven, RequireAndVerifyClientCert"
    ),
    "ca-for-nothing": (
        "tls_server_config.client_auth_type: is missing; with client_ca_file, write RequireAndVerifyClientCert"
    ),
    "curve": (
        "tls_server_config.curve_preferences: 'P-256' is not a curve that can be chosen; write some of CurveP256, "
        "CurveP384, CurveP521, X25519"
    ),
    "dear-password": "basic_auth_users.alice: has the cost 20; write a hash of cost 4 to 16",
    "header-lines": (
        "http_server_config.headers.Content-Security-Policy: 'a\\r\\nSet-Cookie: b' is not the value of a header; "
        "write it on one line, in quotes"
    ),
    "header-value": "http_server_config.headers.X-Frame-Options: 'never' is not known; write deny or sameorigin",
    "list": "is no mapping; write its keys below it, indented",
    "no-ca": (
        "tls_server_config.client_ca_file: is missing; RequireAndVerifyClientCert needs the CA that signs clients' "
        "certificates"
    ),
    "no-cert": "tls_server_config.cert_file: is missing; TLS needs cert_file and key_file",
    "no-key": "tls_server_config.key_file: is missing; TLS needs cert_file and key_file",
    "number": "tls_server_config.cert_file: '7' is not text; put it in quotes",
    "number-password": (
        "basic_auth_users.alice: is not a bcrypt hash; write what htpasswd -nBC 10 '' | tr -d ':\\n' prints"
    ),
    "old-version": "tls_server_config.min_version: 'TLS10' is no longer safe; write TLS12 or TLS13",
    "plain-password": (
        "basic_auth_users.alice: is not a bcrypt hash; write what htpasswd -nBC 10 '' | tr -d ':\\n' prints"
    ),
    "rate-burst": "rate_limit.burst: '0' is not a whole number from 1 to 2147483648",
    "rate-no-duration": "rate_limit.interval: '5' is not a duration; write 5s, 500ms or 1m",
    "rate-without-burst": "rate_limit.burst: is missing; write how many requests may come at once",
    "sans-for-nothing": "tls_server_config.client_allowed_sans: needs client_auth_type: RequireAndVerifyClientCert",
    "sans-no-list": (
        "tls_server_config.client_allowed_sans: 'a' is not a list; write one item a line, each behind a dash"
    ),
    "section-is-text": "tls_server_config: is no mapping; write its keys below it, indented",
    "switch": "tls_server_config.prefer_server_cipher_suites: 'yes please' is not a switch; write true or false",
    "twice": "tls_server_config.cert: is written twice, here and in cert_file; write one of them",
    "unknown-header": (
        "http_server_config.headers.X-Powered-By: unknown key; write one of Content-Security-Policy, "
        "X-Frame-Options, X-Content-Type-Options, X-XSS-Protection, Strict-Transport-Security"
    ),
    "unknown-key": (
        "tls_config: unknown key; write one of tls_server_config, http_server_config, basic_auth_users, rate_limit"
    ),
    "unknown-tls-key": (
        "tls_server_config.ca_file: unknown key; write one of cert, key, client_ca, cert_file, key_file, "
        "client_ca_file, client_auth_type, client_allowed_sans, min_version, max_version, cipher_suites, "
        "prefer_server_cipher_suites, curve_preferences"
    ),
    "unverified": (
        "tls_server_config.client_auth_type: 'RequireAnyClientCert' lets in certificates that nobody verified; "
        "write one of NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert"
    ),
    "user-with-colon": "basic_auth_users.a:b: is not a user's name; write text without a colon",
    "version": "tls_server_config.max_version: '1.2' is not known; write TLS12 or TLS13",
    "versions": "tls_server_config.min_version: is above max_version; write TLS12 or the same version",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check(path)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_every_bad_file_has_a_message() -> None:
    assert {path.stem for path in BAD.iterdir()} == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_mistake_is_one_line(name: str) -> None:
    assert refusal(BAD / f"{name}.yml") == MESSAGES[name]


def test_a_password_in_place_of_its_hash_is_not_repeated() -> None:
    assert "hunter2" in (BAD / "plain-password.yml").read_text()
    assert "hunter2" not in refusal(BAD / "plain-password.yml")


def test_a_cipher_suite_has_gos_name(site: Site) -> None:
    site.write("cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256]")
    message = refusal(site.path)
    assert message.startswith(
        "tls_server_config.cipher_suites: 'ECDHE-RSA-AES128-GCM-SHA256' is not a cipher suite that"
    )
    assert "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" in message


def test_every_cipher_suite_of_go_is_known_to_openssl(site: Site) -> None:
    known = {cipher["name"] for cipher in ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).get_ciphers()}
    site.write("cipher_suites: [" + ", ".join(file._CIPHERS) + "]")
    check(site.path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name in filter(None, file._CIPHERS.values()):
        context.set_ciphers(name)
        assert name in known | {cipher["name"] for cipher in context.get_ciphers()}


@pytest.mark.skipif(hasattr(ssl.SSLContext, "set_groups"), reason="this Python can order curves")
def test_several_curves_are_refused_where_python_cannot_order_them(site: Site) -> None:
    site.write("curve_preferences: [X25519, CurveP256]")
    assert refusal(site.path).startswith("tls_server_config.curve_preferences: this Python cannot order several curves")


@pytest.mark.parametrize("text", ["", "# nothing\n", "tls_server_config:\n", "basic_auth_users: {}\n", "rate_limit:\n"])
def test_what_is_left_empty_protects_nothing(site: Site, text: str) -> None:
    site.path.write_text(text)
    assert file.load(site.path) == file.AccessConfig()


def test_secrets_do_not_show(site: Site) -> None:
    made = hashed("secret")
    site.write(rest=f"basic_auth_users:\n  alice: {made}\n")
    config = file.load(site.path)
    assert config.users == {"alice": made.encode()}
    assert made not in repr(config)
    site.path.write_text("tls_server_config: {cert: c, key: 'the private key'}")
    assert "the private key" not in repr(file.load(site.path))


# --- certificates and keys -------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write()
    monkeypatch.chdir("/")
    check(site.path)
    monkeypatch.chdir(site.folder)
    check(Path("web.yml"))


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_a_missing_file_is_named(site: Site, name: str) -> None:
    files = {"cert": "cert.pem", "key": "key.pem", "client_ca": "ca.pem", name: "no.pem"}
    rest = "".join(f"  {key}_file: {value}\n" for key, value in files.items())
    site.path.write_text(f"tls_server_config:\n  client_auth_type: RequireAndVerifyClientCert\n{rest}")
    missing = site.folder / "no.pem"
    assert refusal(site.path) == f"tls_server_config.{name}_file: '{missing}' cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("files", "key", "why"),
    [
        (("key.pem", "key.pem", "ca.pem"), "cert_file", "holds no certificate; write one in PEM"),
        (("cert.pem", "cert.pem", "ca.pem"), "key_file", "holds no private key; write one in PEM"),
        (("cert.pem", "key.pem", "key.pem"), "client_ca_file", "holds no certificate; write those of the CAs in PEM"),
        (("cert.pem", "other.pem", "ca.pem"), "key_file", "is not the key of the certificate"),
        (("cert.pem", "encrypted.pem", "ca.pem"), "key_file", "is encrypted; write a key without a passphrase"),
        (("/dev/zero", "key.pem", "ca.pem"), "cert_file", "is larger than 1024 KiB; is it the right file?"),
    ],
)
def test_an_unusable_certificate_or_key(site: Site, files: tuple[str, str, str], key: str, why: str) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(site.folder / "other.pem")
    loaded = serialization.load_pem_private_key((site.folder / "key.pem").read_bytes(), None)
    (site.folder / "encrypted.pem").write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    cert, private, ca = files
    site.path.write_text(
        f"tls_server_config:\n  cert_file: {cert}\n  key_file: {private}\n  client_ca_file: {ca}\n"
        "  client_auth_type: VerifyClientCertIfGiven\n"
    )
    bad = dict(zip(("cert_file", "key_file", "client_ca_file"), files, strict=True))[key]
    assert refusal(site.path) == f"tls_server_config.{key}: '{site.folder / bad}' {why}"


def test_the_example_of_the_documentation_is_accepted(site: Site, tmp_path: Path) -> None:
    example = (ROOT / "docs/WEB_CONFIG.md").read_text().split("```yaml\n")[1].split("```")[0]
    for there, here in (("cert.pem", "tls.crt"), ("key.pem", "tls.key"), ("ca.pem", "ca.crt")):
        (tmp_path / here).write_bytes((site.folder / there).read_bytes())
    path = tmp_path / "web.yml"
    path.write_text(example)
    check(path)
    config = file.load(path)
    assert config.tls is not None
    assert config.tls.verify is ssl.CERT_REQUIRED
    assert set(config.users) == {"prometheus"}


# --- the command line ------------------------------------------------------------------------------------------------


def test_check_config_checks_the_web_configuration(site: Site) -> None:
    site.write()
    main = site.folder / "exporter.yml"
    main.write_text(f"web:\n  config_file: {site.path}\n")
    both = f"{main}: ok\n{site.path}: ok\n"
    assert run("check-config", str(main)).stdout == both
    assert run("check-config", f"--web.config.file={site.path}").stdout == f"{site.path}: ok\n"
    assert run("check-config", str(main), f"--web.config.file={site.path}").stdout == both
    site.write("min_version: SSL3")
    for arguments in ([str(main)], [f"--web.config.file={site.path}"]):
        done = run("check-config", *arguments)
        assert done.returncode == 2
        assert done.stderr == (
            f"gpu-exporter: {site.path}: tls_server_config.min_version: 'SSL3' is not known; write TLS12 or TLS13\n"
        )
    done = run("check-config")
    assert (done.returncode, done.stderr) == (
        2,
        (
            "gpu-exporter: there is nothing to check; write a file, or --web.config.file, --nodes.file or "
            "--hub.config.file FILE\n"
        ),
    )


def test_a_bad_web_configuration_is_refused_before_anything_listens(site: Site) -> None:
    site.path.write_text("basic_auth_users: {alice: hunter2}")
    for arguments, extra in (
        ([f"--web.config.file={site.path}"], {}),
        ([], {"GPU_EXPORTER_WEB_CONFIG_FILE": str(site.path)}),
    ):
        done = run("--source=fake", "--web.listen-address=127.0.0.1:0", *arguments, extra=extra)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"gpu-exporter: {site.path}: basic_auth_users.alice: is not a bcrypt hash")


def test_without_bcrypt_passwords_are_refused_and_tls_is_not(site: Site) -> None:
    """The package is an extra: its absence is made by hiding it from the import."""
    hide = (
        "import sys, importlib.abc\n"
        "sys.modules['bcrypt'] = None\n"
        "import importlib.util as util\n"
        "genuine = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'bcrypt' else genuine(name, *rest)\n"
        "from gpu_exporter.http.access import Gate\nfrom gpu_exporter.config import ConfigError\n"
        "from pathlib import Path\n"
        "try:\n    print(Gate(Path(sys.argv[1])).secure)\nexcept ConfigError as error:\n    print(error)\n"
    )

    def told() -> str:
        done = subprocess.run(
            [sys.executable, "-c", hide, str(site.path)],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    site.write()
    assert told() == "True"
    site.write(rest=f"basic_auth_users:\n  alice: {hashed('secret')}\n")
    remedy = f"run: {sys.executable} -m pip install bcrypt"
    assert told() == f"{site.path}: basic_auth_users: needs the package bcrypt; {remedy}"


def test_secrets_that_others_may_read_or_change_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path)
    path = site.write(rest=f"basic_auth_users:\n  alice: {hashed('secret')}\n")
    for each in (path, tmp_path / "key.pem", tmp_path / "cert.pem"):
        each.chmod(0o600)
    gate = Gate(path)
    assert caplog.records == []
    path.chmod(0o640)
    (tmp_path / "key.pem").chmod(0o644)
    (tmp_path / "cert.pem").chmod(0o666)
    for _ in range(2):
        gate.reload()
    told = [(record.message, record.file) for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [
        ("others may change this file", str(tmp_path / "cert.pem")),
        ("everybody may read this file, which has passwords or a key", str(tmp_path / "key.pem")),
    ]
