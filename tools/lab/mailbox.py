"""A real SMTP server that keeps what it gets."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from tools.lab import LOOPBACK
from tools.lab.ports import free_port
from tools.lab.wait import patience, wait_for


class Mailbox:
    """Whatever is sent to anybody; with a password, by whom it was told only. A context manager that stops it."""

    def __init__(self, port: int | None = None, *, password: str | None = None) -> None:
        self.port = port or free_port()
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.logins: set[tuple[bytes, bytes]] = set()
        self._seen = 0
        self._password = password
        self._controller = Controller(
            self,
            hostname=LOOPBACK,
            port=self.port,
            ready_timeout=patience(),
            authenticator=self._login if password else None,
            auth_require_tls=False,
            auth_exclude_mechanism=["LOGIN"],  # Alertmanager does not understand how aiosmtpd asks for the name
        )

    def __enter__(self) -> Mailbox:  # noqa: PYI034 - typing has Self from Python 3.11 on
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def _login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.add((data.login, data.password))
        return AuthResult(success=data.password.decode() == self._password)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        if self._password and not session.authenticated:
            return "530 5.7.0 Authentication required"
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.recipients.append(list(envelope.rcpt_tos))
        self.mails.append(mail)
        return "250 OK"

    def new(self) -> list[EmailMessage]:
        """The mails that came since this was asked last."""
        fresh = self.mails[self._seen :]
        self._seen += len(fresh)
        return fresh

    def subjects(self) -> list[str]:
        return [f"{mail['To']}: {mail['Subject']}" for mail in self.mails]

    def to(self, address: str, about: str = "") -> list[EmailMessage]:
        """The mails to an address, oldest first; only those with the words in the subject."""
        return [mail for mail in list(self.mails) if address in mail["To"] and about in mail["Subject"]]

    def wait(self, address: str, about: str = "") -> EmailMessage:
        """The first such mail, as soon as it is there."""
        return wait_for(lambda: self.to(address, about), self.subjects)[0]


def part(mail: EmailMessage, subtype: str) -> str:
    """The text of the ``plain`` or the ``html`` part."""
    found = mail.get_body((subtype,))
    assert found is not None, f"{mail['Subject']} has no {subtype} part"
    text: str = found.get_content()
    return text.replace("\r\n", "\n")
