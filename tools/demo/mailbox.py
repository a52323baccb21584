"""A local SMTP server that keeps what it gets."""

from __future__ import annotations

import email
import email.policy
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from tools.demo.programs import LOOPBACK


class Mailbox:
    """Whatever is sent to anybody."""

    def __init__(self) -> None:
        self.mails: queue.SimpleQueue[EmailMessage] = queue.SimpleQueue()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Take a mail; called by aiosmtpd."""
        content = envelope.content
        mail = email.message_from_bytes(content if isinstance(content, bytes) else b"", policy=email.policy.default)
        self.mails.put(mail)
        return "250 OK"


@contextmanager
def mailbox(port: int) -> Iterator[Mailbox]:
    """A mailbox that listens on the port."""
    box = Mailbox()
    controller = Controller(box, hostname=LOOPBACK, port=port)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


def is_about(mail: EmailMessage, machine: str) -> bool:
    """Whether it is about that machine: one mail a sick machine is what deploy/alertmanager groups by."""
    return f"] {machine}: " in str(mail["Subject"])


def shown(mail: EmailMessage) -> str:
    """The mail as a terminal shows it: the headers that matter and the text part between two rules."""
    body = mail.get_body(("plain",))
    text = str(body.get_content()).replace("\r\n", "\n").strip() if body else "(no text part)"
    rule = "─" * 100
    head = "\n".join(f"{name + ':':<9}{mail[name]}" for name in ("From", "To", "Subject") if mail[name])
    return f"{rule}\n{head}\n\n{text}\n{rule}"
