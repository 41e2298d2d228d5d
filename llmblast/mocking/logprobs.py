"""Log probabilities of an answer's tokens, in the form of chats and in the older one of completions.

A token's own are drawn from the token and its place; the alternatives are less likely, as in a greedy answer.
Source of both forms: https://platform.openai.com/docs/api-reference
"""

from collections.abc import Sequence
from zlib import crc32

_STEP = 0.75


def chat_logprobs(pieces: Sequence[str], top: int, number: int = 0) -> dict[str, object]:
    """Return `logprobs` of a chat's choice, or of one of its chunks, whose first token has that number."""
    content = []
    for index, piece in enumerate(pieces, number):
        ranked = [_entry(token, logprob) for token, logprob in _ranked(piece, index, max(top, 1))]
        content.append({**ranked[0], "top_logprobs": ranked[:top]})
    return {"content": content, "refusal": None}


def completion_logprobs(
    pieces: Sequence[str], top: int, offset: int, number: int = 0, *, has_first: bool = False
) -> dict[str, object]:
    """Return `logprobs` of a completion's choice, or of a chunk whose first token has that number.

    `offset` is where in the text the first token begins. `has_first`: that is the first token of a prompt, which has no
    probability.
    """
    ranks = [_ranked(piece, index, max(top, 1)) for index, piece in enumerate(pieces, number)]
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece)
    unknown = 1 if has_first else 0
    return {
        "tokens": list(pieces),
        "token_logprobs": [None] * unknown + [ranked[0][1] for ranked in ranks[unknown:]],
        "top_logprobs": [None] * unknown + [dict(ranked[:top]) for ranked in ranks[unknown:]] if top else None,
        "text_offset": offsets,
    }


def _ranked(piece: str, index: int, count: int) -> list[tuple[str, float]]:
    """Return the token and its alternatives, the most likely first."""
    own = -(crc32(piece.encode(), index) % 1000) / 2000
    return [(piece if not rank else f"{piece}~{rank}", round(own - rank * _STEP, 6)) for rank in range(count)]


def _entry(token: str, logprob: float) -> dict[str, object]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
