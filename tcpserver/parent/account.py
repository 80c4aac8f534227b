"""-u, -g and -U -> the uid, gid and groups to run as. Looks accounts up; changes nothing (listen.py does).

A user's name also sets its gid and its groups, a uid only its gid. So no process stays root, or in root's groups, by
mistake. 0.88 takes only numbers, and stays root without a warning for anything else.
"""

import grp
import os
import pwd

MAX_ID = 2**32 - 2  # (uid_t)-1 means "leave it" to the kernel


class Account:
    """What to become. None for uid or gid: it was not asked for."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int | None, gid: int | None, groups: list[int]) -> None:
        self.uid, self.gid, self.groups = uid, gid, groups


def account(user: str | None, group: str | None) -> Account:
    """The account for the words of -u and -g. Raises ValueError with a text for the administrator."""
    gid = None if group is None else group_id(group)
    if user is None:
        return Account(None, gid, [] if gid is None else [gid])
    if number(user) == 0:  # -u 0 stays root, knowingly
        return Account(None, gid, [] if gid is None else [gid])
    entry = passwd_entry(user)
    uid = entry.pw_uid if entry else number(user)
    if gid is not None:
        return Account(uid, gid, [gid])
    if entry is None:
        raise ValueError(f"-u {user} has no entry in passwd: say its group with -g")
    if number(user) is None:
        return Account(uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(uid, entry.pw_gid, [entry.pw_gid])


def passwd_entry(user: str) -> pwd.struct_passwd | None:
    """The passwd entry of a name or a uid; None for a uid without one. Raises ValueError for an unknown name."""
    uid = number(user)
    try:
        return pwd.getpwnam(user) if uid is None else pwd.getpwuid(uid)
    except (KeyError, ValueError):
        if uid is not None:
            return None
    raise ValueError(f"-u needs a user: {user or 'it is empty'}")


def group_id(group: str) -> int:
    """The gid of a name or a number. Raises ValueError for an unknown name."""
    gid = number(group)
    if gid is not None:
        return gid
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ValueError(f"-g needs a group: {group or 'it is empty'}") from None


def number(text: str) -> int | None:
    """The id that is written in digits, or None for a word. Raises ValueError for a number that is no id."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(MAX_ID)) or int(digits) > MAX_ID:
        raise ValueError(f"no such id: {text}")
    return int(digits)
