"""JSON through CPython's C accelerator alone.

`import json` costs 10 ms because its pure-Python decoder compiles regular expressions; `_json` holds the scanner and
the encoder that json uses anyway, comes with every CPython and needs 0.2 ms. Where it is missing, json stands in.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    from _json import encode_basestring, make_encoder, make_scanner
except ImportError:  # another Python implementation
    import json

    def encode(value: object) -> bytes:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    def decode(text: bytes) -> Any:
        return json.loads(text)

else:

    def encode(value: object) -> bytes:
        """Compact UTF-8 JSON.

        Raises: TypeError for what JSON lacks, UnicodeEncodeError for text that is not Unicode (surrogate escapes).
        """
        return "".join(_encode(value, 0)).encode()

    def decode(text: bytes) -> Any:
        """Raises: ValueError."""
        string = text.decode().strip(" \t\r\n")
        try:
            value, end = _scan(string, 0)
        except StopIteration as stop:
            raise ValueError(f"no JSON value at character {stop.value}") from None
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if end != len(string):
            raise ValueError(f"more than one JSON value: character {end}")
        return value

    class _Context:
        """The attributes that `make_scanner` reads; json.JSONDecoder has the same."""

        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        memo: dict[str, str] = {}  # noqa: RUF012  (read once, never shared)

        @staticmethod
        def parse_constant(name: str) -> float:
            return float(name)  # NaN, Infinity, -Infinity

    def _refuse(value: object) -> object:
        raise TypeError(f"{type(value).__name__} is not JSON")

    _scan = make_scanner(_Context())  # type: ignore[arg-type]  # the stub wants the class
    _encode = make_encoder(None, _refuse, encode_basestring, None, ":", ",", False, False, True)
