"""Helping the process that leads: the same for whatever is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from stylecli.engine.plan import Job
from stylecli.engine.request import Prepared
from stylecli.engine.runs.processes import Team
from stylecli.errors import StyleError


class Helper(Protocol):
    """A maker that several processes are."""

    def follow(self, jobs: Sequence[Job]) -> int:
        """Do one's share of all that is made of these jobs; the exit status to end with."""
        ...


def follow(prepare: Callable[..., Prepared], team: Team) -> int:
    """Help the process that leads with all it makes.

    Args:
        prepare: What that process prepared too; takes the team.
        team: Whom to follow.

    Returns:
        The exit status to end with. What went wrong is for the one that leads to say.
    """
    try:
        with team.same_fate():
            prepared = prepare(team=team)
        maker = cast(Helper, prepared.start())
        return maker.follow(prepared.plan.jobs)
    except StyleError as error:
        return error.exit_status
