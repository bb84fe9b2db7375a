"""The routes of the listening test, which its page uses alone: they are no part of the API."""

import logging
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from disentangled_ml.web.listening.questions import (
    CANNOT_TELL,
    FIRST,
    SECOND,
    check_rater,
    first_is_left,
    what_is_asked,
)
from disentangled_ml.web.listening.session import Turn
from disentangled_ml.web.routes.answers import answered, view_of
from disentangled_ml.web.routes.bodies import json_object

logger = logging.getLogger("serve")
SIDES = ("left", "right")


def shown_turn(turn: Turn, chunk_seconds: float) -> dict[str, Any]:
    """Return what a rater sees of a turn: neither names nor which candidate the list calls positive."""
    shown: dict[str, Any] = {"number": turn.number, "done": turn.done, "total": turn.total}
    if turn.question is None:
        return shown
    candidates = (turn.question.first, turn.question.second)[:: 1 if turn.first_is_left else -1]
    excerpts = zip(("reference", *SIDES), (turn.question.reference, *candidates), strict=True)
    chosen = side_of(turn.chosen, turn.first_is_left) if turn.chosen else None
    shown |= {role: {"track": track_id, "start": start} for role, (track_id, start) in excerpts}
    return {**shown, "asked": what_is_asked(turn.question.condition), "chunk_seconds": chunk_seconds, "chosen": chosen}


def side_of(chosen: str, first_left: bool) -> str:
    """Return the side on which a choice is shown, the inverse of ``choice_of``.

    >>> side_of("first", True), side_of("first", False), side_of("cannot tell", True)
    ('left', 'right', 'cannot tell')
    """
    return chosen if chosen == CANNOT_TELL else SIDES[(chosen == FIRST) != first_left]


def choice_of(side: Any, first_left: bool) -> str:
    """Return the choice of a side. Raises ValueError if it is none.

    >>> choice_of("left", True), choice_of("right", False), choice_of("right", True)
    ('first', 'first', 'second')
    """
    if side not in (*SIDES, CANNOT_TELL):
        raise ValueError(f"an answer is one of {', '.join((*SIDES, CANNOT_TELL))}")
    return side if side == CANNOT_TELL else (FIRST if (side == SIDES[0]) == first_left else SECOND)


async def turn(request: Request) -> Response:
    """Return the next question of a rater, or the one of a number."""
    page, listening, asked = await view_of(request), request.app.state.listening, request.query_params
    number = asked.get("number", "")

    def next_turn() -> dict[str, Any]:
        given = listening.turn(asked.get("rater"), int(number) if number else None)
        return shown_turn(given, page.chunk_seconds)

    return await answered(next_turn)


async def answer(request: Request) -> Response:
    """Save the answer of a rater; the browser is told so once it is on the disk."""
    content, listening = await json_object(request), request.app.state.listening

    def keep() -> dict[str, bool]:
        rater, number = check_rater(content.get("rater")), content.get("number")
        first_left = first_is_left(listening.question(number), rater)
        listening.answer(rater, number, choice_of(content.get("chosen"), first_left))
        return {"saved": True}

    try:
        return await answered(keep)
    except OSError as error:
        logger.error("an answer cannot be saved: %s", error)
        raise HTTPException(507, "your answer could not be saved: tell the organiser, and try again") from error


async def figures(request: Request) -> Response:
    return await answered(request.app.state.listening.figures)


async def judged_triplets(request: Request) -> Response:
    text = await run_in_threadpool(request.app.state.listening.judged)
    headers = {"content-disposition": 'attachment; filename="triplets.csv"'}
    return Response(text, media_type="text/csv", headers=headers)


ROUTES = [
    Route("/api/listen/turn", turn),
    Route("/api/listen/answer", answer, methods=["POST"]),
    Route("/api/listen/figures", figures),
    Route("/api/listen/triplets.csv", judged_triplets),
]
