"""Fingerprints of errors: one short hash per cause. Pure, and bounded on hostile input.

A cause is the error's type, its message with everything that varies replaced (``normalise``) and
the five innermost frames without paths and line numbers (``frames``). Texts are cut before any
pattern sees them; the patterns use bounded or possessive repeats only, so none can backtrack far.
"""

import hashlib
import re
from typing import Final

#: characters of a traceback that are looked at (its end)
LOOKED_AT: Final = 16_384
#: characters of a message that are looked at (its start)
MESSAGE_LOOKED_AT: Final = 8_192
#: characters of a normalised message that count: reports cut messages at different lengths
MESSAGE_KEPT: Final = 500
FRAMES_KEPT: Final = 5
#: shortest quoted text that is taken for data
QUOTED_DATA: Final = 24

_HEAD: Final = "Traceback (most recent call last):"
_GROUP: Final = "Exception Group Traceback (most recent call last):"
_FIRST_OF_GROUP: Final = "+---------------- 1 ----------------"
#: order matters: what contains digits or slashes for a reason of its own goes first
_VARYING: Final = (
    (
        re.compile(
            r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?"
            r"[0-9a-fA-F]{12}(?![0-9A-Za-z])"
        ),
        "<id>",
    ),
    (re.compile(r"(?<![\w+.-])[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s\"'<>]++"), "<url>"),
    (re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"), "<email>"),
    (
        re.compile(
            r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)?(?:Z|[+-]\d\d:?\d\d)?"
        ),
        "<time>",
    ),
    (re.compile(r"(?<!\d)\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?!\d)"), "<time>"),
    (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\w.])"), "<address>"),
    (re.compile(r"0[xX][0-9a-fA-F]++"), "<address>"),
    (
        re.compile(r"(?<![\w/\\<>.~])(?:~|\.{1,2}|[A-Za-z]:)?[/\\][^\s\"'`:;,()<>\[\]{}]++"),
        "<path>",
    ),
    (re.compile(r"\bb'[^'\n]*+'"), "b'<text>'"),
    (re.compile(r"<path>:\d{1,9}"), "<path>"),
    (re.compile(r"(?<![\w.])\d{1,18}\.\d{1,18}(?![\w.])"), "#"),
    # where in the data it was, not what was wrong with it
    (re.compile(r"\b(line|column|col|char|character|position|offset|row|index) \d{1,9}"), r"\1 #"),
    (re.compile(r"\b(saw|size|length|got) \d{1,9}"), r"\1 #"),
    (re.compile(r"\(\d{1,9} sub-exceptions?\)"), "(# sub-exceptions)"),
    (re.compile(r"\b(Task|Thread|Process|ForkProcess|SpawnProcess)-\d{1,9}"), r"\1-#"),
    # pydantic; the value is bounded, and what follows it is asked for
    (re.compile(r"input_value=[^\n]{0,200}?, input_type="), "input_value=<text>, input_type="),
    (
        re.compile(
            r"(literal for int\(\) with base \d{1,2}|could not convert string to \w{1,20}"
            r"|\b(?:string|value|literal|date|datetime|time|number|input)): ['\"].{0,400}"
        ),
        r"\1: <text>",
    ),
)
#: SQLAlchemy puts the statement's parameters, and nothing but an address, behind its words
_PARAMETERS: Final = "[parameters:"
_WORD: Final = re.compile(r"[A-Za-z0-9]++")
_DIGITS: Final = re.compile(r"\d{4,}+")
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_QUOTED: Final = (
    re.compile(r"(?<!\w)'([^'\n]*+)'"),
    re.compile(r'"([^"\n]*+)"'),
    re.compile(r"`([^`\n]*+)`"),
)


def fingerprint(error_type: str, message: str, traceback_text: str) -> str:
    """16 hex digits, equal for errors of one cause; equal across processes and install paths."""
    parts = [error_type[:200], normalise(message), *frames(_without(traceback_text, message))]
    text = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


def normalise(message: str) -> str:
    """*message* with ids, times, addresses, paths, long numbers and long quotations replaced."""
    text = " ".join(message[:MESSAGE_LOOKED_AT].partition(_PARAMETERS)[0].split())
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    text = _WORD.sub(_plain_word, text)
    for pattern in _QUOTED:
        text = pattern.sub(_plain_quotation, text)
    return text[:MESSAGE_KEPT]


def frames(traceback_text: str) -> tuple[str, ...]:
    """Innermost frames of the last exception, outermost first: ``basename:function``.

    Of an exception group, the frames of the group: which of its exceptions comes last is chance.
    """
    tail = traceback_text[-LOOKED_AT:]
    if len(tail) < len(traceback_text):
        tail = tail.partition("\n")[2]  # its first line is cut somewhere
        found = _innermost(tail)
        # a message that fills the tail hides the frames: they are where the text begins
        return found or _innermost(traceback_text[:LOOKED_AT].rpartition("\n")[0])
    return _innermost(tail)


def _innermost(text: str) -> tuple[str, ...]:
    last = text.rpartition(_GROUP)[2].partition(_FIRST_OF_GROUP)[0]
    last = last.rpartition(_HEAD)[2]
    found: list[str] = []
    for line in reversed(last.splitlines()):
        text = line.lstrip(" |+-\t")
        if not text.startswith('File "'):
            continue
        path, quote, rest = text[6:].rpartition('", line ')
        if not quote:
            continue
        name = path.replace("\\", "/").rpartition("/")[2][:120]
        function = rest.partition(", in ")[2].strip()[:120]
        found.append(f"{_DIGITS.sub('#', name)}:{function}")
        if len(found) == FRAMES_KEPT:
            break
    return tuple(reversed(found))


def _without(traceback_text: str, message: str) -> str:
    """*traceback_text* without the *message* at its end, which may quote another traceback."""
    end = len(traceback_text) - traceback_text.endswith("\n")
    if not message or not traceback_text.startswith(message, max(0, end - len(message))):
        return traceback_text
    end = max(0, end - len(message))
    return traceback_text[max(0, end - LOOKED_AT - 1) : end]


def _plain_word(match: re.Match[str]) -> str:
    word = match.group()
    if word.isalpha():
        return word
    letters = any(c.isalpha() for c in word)
    if letters and (len(word) >= 12 or (len(word) >= 8 and _HEX.issuperset(word))):
        return "<id>"
    return _DIGITS.sub("#", word)


def _plain_quotation(match: re.Match[str]) -> str:
    text = match.group()
    return f"{text[0]}<text>{text[-1]}" if len(match.group(1)) > QUOTED_DATA else text
