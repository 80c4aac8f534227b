"""SCRAM clients of other projects, called in process: libgsasl (msmtp, mutt) and Cyrus SASL (Postfix, OpenLDAP).

A client is a generator: it yields each message of the client, and is sent each message of the server.
"""

import ctypes
import platform
from collections.abc import Generator

from tests.kit.support import peer

LIBRARIES = f"/usr/lib/{platform.machine()}-linux-gnu"
MECHANISM = b"SCRAM-SHA-256"

Client = Generator[bytes, bytes, None]


class ClientFailed(Exception):
    """The client has given up."""


# libgsasl: gsasl.h
GSASL_OK, GSASL_NEEDS_MORE = 0, 1
GSASL_AUTHID, GSASL_AUTHZID, GSASL_PASSWORD = 1, 2, 3


def gsasl(user: str, password: str, authzid: str) -> Client:
    library = ctypes.CDLL(peer(f"{LIBRARIES}/libgsasl.so.18"))
    context, session = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.gsasl_init(ctypes.byref(context)) == GSASL_OK
    assert library.gsasl_client_start(context, MECHANISM, ctypes.byref(session)) == GSASL_OK
    for name, text in ((GSASL_AUTHID, user), (GSASL_AUTHZID, authzid), (GSASL_PASSWORD, password)):
        if text:
            library.gsasl_property_set(session, name, text.encode())
    message, status = b"", GSASL_NEEDS_MORE
    try:
        while status == GSASL_NEEDS_MORE:
            output, length = ctypes.c_void_p(), ctypes.c_size_t()
            status = library.gsasl_step(session, message, len(message), ctypes.byref(output), ctypes.byref(length))
            if status not in (GSASL_OK, GSASL_NEEDS_MORE):
                raise ClientFailed(status)
            answer = ctypes.string_at(output.value or 0, length.value) if length.value else b""
            library.gsasl_free(output)
            message = yield answer
    finally:
        library.gsasl_finish(session)
        library.gsasl_done(context)


# Cyrus SASL: sasl.h
SASL_CONTINUE, SASL_OK, SASL_INTERACT = 1, 0, 2
SASL_CB_LIST_END, SASL_CB_USER, SASL_CB_AUTHNAME, SASL_CB_PASS = 0, 0x4001, 0x4002, 0x4004


class Callback(ctypes.Structure):
    _fields_ = (("id", ctypes.c_ulong), ("proc", ctypes.c_void_p), ("context", ctypes.c_void_p))


class Interaction(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_ulong),
        ("challenge", ctypes.c_char_p),
        ("prompt", ctypes.c_char_p),
        ("default", ctypes.c_char_p),
        ("result", ctypes.c_char_p),
        ("length", ctypes.c_uint),
    )


def cyrus(user: str, password: str, authzid: str) -> Client:
    library = ctypes.CDLL(peer(f"{LIBRARIES}/libsasl2.so.2"))
    peer(f"{LIBRARIES}/sasl2/libscram.so")
    answers = {SASL_CB_USER: authzid.encode(), SASL_CB_AUTHNAME: user.encode(), SASL_CB_PASS: password.encode()}
    callbacks = (Callback * 4)(*(Callback(name, None, None) for name in (*answers, SASL_CB_LIST_END)))
    assert library.sasl_client_init(callbacks) == SASL_OK
    connection = ctypes.c_void_p()
    new = library.sasl_client_new(b"smtp", b"mx.example.org", None, None, callbacks, 0, ctypes.byref(connection))
    assert new == SASL_OK
    output, length, prompts = ctypes.c_void_p(), ctypes.c_uint(), ctypes.POINTER(Interaction)()
    results = ctypes.byref(prompts), ctypes.byref(output), ctypes.byref(length)
    mechanism = ctypes.c_char_p()
    try:
        while (
            status := library.sasl_client_start(connection, MECHANISM, *results, ctypes.byref(mechanism))
        ) == SASL_INTERACT:
            fill_in(prompts, answers)
        while status in (SASL_OK, SASL_CONTINUE):
            message = yield ctypes.string_at(output.value or 0, length.value) if length.value else b""
            if status == SASL_OK:
                return
            status = library.sasl_client_step(connection, message, len(message), *results)
        raise ClientFailed(status)
    finally:
        library.sasl_dispose(ctypes.byref(connection))
        library.sasl_client_done()


def fill_in(prompts: "ctypes._Pointer[Interaction]", answers: dict[int, bytes]) -> None:
    """Answer the client's questions."""
    number = 0
    while prompts[number].id != SASL_CB_LIST_END:
        text = answers[prompts[number].id]
        prompts[number].result, prompts[number].length = text, len(text)
        number += 1
