"""The password of a server, as whoever asks sends it: ``Authorization: Bearer TOKEN``."""

import hashlib
import hmac

LEAST = 16  # characters


class Token:
    """A password that cannot be printed; raises ValueError for a short one.

    Attributes:
        audio_key: What the address of a recording holds instead of it, since players send no headers; it opens nothing else.
    """

    def __init__(self, text: str):
        if len(text) < LEAST or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"token is too short, or has other characters than ASCII ones: give at least {LEAST}")
        self._text = text.encode()
        self.audio_key = hmac.new(self._text, b"audio", hashlib.sha256).hexdigest()[:32]

    def __repr__(self) -> str:
        return "Token(...)"

    def is_in(self, authorization: str) -> bool:
        """Return whether a header holds the token, in a time that does not tell how much of it is right.

        >>> Token("correct horse".replace(" ", "-") + "-battery").is_in("Bearer correct-horse-battery")
        True
        """
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._text)

    def opens_audio(self, key: str) -> bool:
        return hmac.compare_digest(key.encode("utf-8", "replace"), self.audio_key.encode())
