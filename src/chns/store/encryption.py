"""How the values of a voiceprint store are written: as they are, or encrypted with a key.

Encryption is AES-256-GCM from the package ``cryptography``, value by value: embeddings, names, notes and sources. A
name is looked up by its HMAC-SHA-256. All keys come from the user's key by scrypt with a salt of the store, so a long
passphrase does as well as random bytes; that costs 0.1 s when a store is opened, and a value costs 1 to 2 µs.
Each value is bound to its kind and its person: one that was moved from another row does not open.

A person's rows together carry an HMAC too, so that an utterance removed, doubled or put back, a note removed and a time
changed are noticed. Not noticed: a person removed with all rows, or put back as they once were.

Not hidden: how many people there are, how many utterances each has, when they enrolled, and which model it was.
SQLCipher would hide these too, but its Python bindings replace ``sqlite3`` and lack wheels for many platforms.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from chns.core import ChnsError, ModelFileError

KEY_VARIABLE = "CHNS_STORE_KEY"

_MIN_KEY_BYTES, _MAX_KEY_BYTES = 16, 4_096
_SALT_BYTES, _NONCE_BYTES = 16, 12
_CHECKED = b"chns voiceprint store"
_MAKE_A_KEY = "Make one with `python -c 'import secrets; print(secrets.token_hex(32))'`."


class KeyProof(NamedTuple):
    """What a store keeps to recognise its key; the key cannot be computed from it.

    Attributes:
        salt: Random bytes of this store.
        check: A known text, encrypted.
    """

    salt: bytes
    check: bytes


class StoredValues(Protocol):
    """How values are written."""

    def lookup(self, name: str) -> bytes:
        """What stands for a name where it is looked up, and must be unique."""

    def seal(self, content: bytes, kind: str, owner: bytes) -> bytes:
        """Content as it is stored; ``owner`` is the lookup of the person whose it is."""

    def unseal(self, stored: bytes, kind: str, owner: bytes) -> bytes:
        """The content again.

        Raises:
            ModelFileError: If the value is damaged, or was of another kind or owner.
        """

    def vouch(self, rows: bytes, owner: bytes) -> bytes | None:
        """What nobody can make without the key of all rows of a person as they are stored; None where there is none."""


class PlainValues:
    """Values as they are."""

    def lookup(self, name: str) -> bytes:
        """The name itself."""
        return name.encode()

    def seal(self, content: bytes, kind: str, owner: bytes) -> bytes:  # noqa: ARG002
        """The content itself."""
        return content

    def unseal(self, stored: bytes, kind: str, owner: bytes) -> bytes:  # noqa: ARG002
        """The content itself."""
        return stored

    def vouch(self, rows: bytes, owner: bytes) -> None:  # noqa: ARG002
        """Nothing: whoever can write the file may write what they like."""
        return


class EncryptedValues:
    """Values that nobody reads without the key.

    Args:
        key: The user's key.
        salt: Random bytes of the store.
        source: The store, for error messages.

    Raises:
        ValueError: If the key is too short or too long.
        ChnsError: If the package ``cryptography`` is not installed.
    """

    def __init__(self, key: bytes, salt: bytes, *, source: Path) -> None:
        if not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
            raise ValueError(
                f"key must have {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} bytes, got {len(key)} for {source}. {_MAKE_A_KEY}"
            )
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
        except ImportError as error:
            raise ChnsError(
                "cryptography must be installed for an encrypted store, got no such package. "
                "Run `pip install 'chns[store]'`."
            ) from error
        derived = Scrypt(salt=salt, length=96, n=2**15, r=8, p=1).derive(key)
        self._lookup_key, self._rows_key = derived[32:64], derived[64:]
        self._cipher = AESGCM(derived[:32])
        self._invalid: type[Exception] = InvalidTag
        self._source = source

    def lookup(self, name: str) -> bytes:
        """The name's keyed hash."""
        return hmac.digest(self._lookup_key, name.encode(), hashlib.sha256)

    def seal(self, content: bytes, kind: str, owner: bytes) -> bytes:
        """A fresh nonce, then the encrypted content and its tag."""
        nonce = os.urandom(_NONCE_BYTES)
        encrypted: bytes = self._cipher.encrypt(nonce, content, kind.encode() + b":" + owner)
        return nonce + encrypted

    def unseal(self, stored: bytes, kind: str, owner: bytes) -> bytes:
        """The content again; see `StoredValues.unseal`."""
        try:
            content: bytes = self._cipher.decrypt(
                stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], kind.encode() + b":" + owner
            )
        except (self._invalid, ValueError) as error:
            raise ModelFileError(f"{kind} must be as it was encrypted, got a changed one in {self._source}.") from error
        return content

    def vouch(self, rows: bytes, owner: bytes) -> bytes:
        """Their keyed hash."""
        return hmac.digest(self._rows_key, owner + rows, hashlib.sha256)


def prove(key: bytes, *, source: Path) -> KeyProof:
    """What a new store keeps to recognise this key.

    Raises:
        ValueError: If the key is too short or too long.
        ChnsError: If the package ``cryptography`` is not installed.
    """
    salt = os.urandom(_SALT_BYTES)
    return KeyProof(salt, EncryptedValues(key, salt, source=source).seal(_CHECKED, "key check", b""))


def values_for(key: bytes | None, proof: KeyProof | None, *, source: Path) -> StoredValues:
    """How the values of a store are written.

    Args:
        key: The user's key, if there is one.
        proof: What the store keeps; none if it is not encrypted.
        source: The store, for error messages.

    Raises:
        ValueError: If the key is missing, is another, or is given for a store that is not encrypted.
        ChnsError: If the package ``cryptography`` is not installed.
    """
    if proof is None:
        if key is not None:
            raise ValueError(
                f"key must be left out for a store that is not encrypted, got one for {source}. "
                "Encryption is chosen when a store is made."
            )
        return PlainValues()
    if key is None:
        raise ValueError(
            f"key must be given for an encrypted store, got none for {source}. "
            f"Pass --key-file or set {KEY_VARIABLE} (key= in Python)."
        )
    values = EncryptedValues(key, proof.salt, source=source)
    try:
        values.unseal(proof.check, "key check", b"")
    except ModelFileError as error:
        raise ValueError(f"key must be the one that the store was made with, got another for {source}.") from error
    return values


def read_key(path: Path | None, *, variable: Callable[[str], str | None] = os.environ.get) -> bytes | None:
    """The key in a file; without a file, the one in the environment variable ``CHNS_STORE_KEY``, if any.

    White space around the key does not count, so that a file may end in a new line.

    Args:
        path: The file.
        variable: Looks up an environment variable.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file or the variable is empty, or the file is too large for a key.
    """
    if path is None:
        text = variable(KEY_VARIABLE)
        key, source = None if text is None else os.fsencode(text), KEY_VARIABLE
    else:
        key, source = _file_content(path), str(path)
    if key is None:
        return None
    if not key.strip():
        raise ValueError(f"key must not be empty, got nothing in {source}. {_MAKE_A_KEY}")
    return key.strip()


def _file_content(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"key file must be a file, got {path}. {_MAKE_A_KEY}")
    with path.open("rb") as file:
        content = file.read(_MAX_KEY_BYTES + 1)
    if len(content) > _MAX_KEY_BYTES:
        raise ValueError(f"key file must have at most {_MAX_KEY_BYTES} bytes, got more in {path}.")
    return content
