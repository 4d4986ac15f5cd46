"""What the workers in the pictures run by themselves."""

from typing import Any

from arq import cron


async def refresh_tokens(ctx: dict[str, Any]) -> str:  # noqa: ARG001 - arq's signature
    """Renew what expires soon."""
    return "renewed"


async def tidy_exports(ctx: dict[str, Any]) -> str:  # noqa: ARG001 - arq's signature
    """Remove exports nobody fetched."""
    return "tidied"


async def monthly_report(ctx: dict[str, Any]) -> str:  # noqa: ARG001 - arq's signature
    """Add the month up."""
    return "added up"


cron_jobs = {
    "async-processing": [
        cron(refresh_tokens, name="refresh_tokens", minute=set(range(0, 60, 5)), second=30),
        cron(tidy_exports, name="tidy_exports", hour=3, minute=30, max_tries=3),
    ],
    "long-running-jobs": [
        cron(monthly_report, name="monthly_report", day=1, hour=6, minute=0),
    ],
}
