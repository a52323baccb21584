"""Mails, as a terminal shows them."""

from __future__ import annotations

from email.message import EmailMessage

from tools.lab.mailbox import part


def is_about(mail: EmailMessage, machine: str) -> bool:
    """Whether it is about that machine: one mail a sick machine is what deploy/alertmanager groups by."""
    return f"] {machine}: " in str(mail["Subject"])


def shown(mail: EmailMessage) -> str:
    """The mail as a terminal shows it: the headers that matter and the text part between two rules."""
    text = part(mail, "plain").strip()
    rule = "─" * 100
    head = "\n".join(f"{name + ':':<9}{mail[name]}" for name in ("From", "To", "Subject") if mail[name])
    return f"{rule}\n{head}\n\n{text}\n{rule}"
