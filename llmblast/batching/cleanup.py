"""Ends of batches and of uploaded files, where it does not matter that they have ended already."""

from collections.abc import Awaitable, Callable

from llmblast.batching.api import BatchApiError, BatchState, BatchStatus, Rejected
from llmblast.batching.http import BatchHttp, HttpRequest


async def cancel(
    http: BatchHttp, request: HttpRequest, ask_status: Callable[[str], Awaitable[BatchStatus]], batch_id: str
) -> None:
    """Cancel a batch. APIs refuse that for one that has ended, where nothing is left to do."""
    try:
        await http.repeat(request)
    except Rejected:
        if (await ask_status(batch_id)).state is not BatchState.ENDED:
            raise


async def delete_file(http: BatchHttp, url: str) -> None:
    """Delete an uploaded file. One that stays is deleted by the provider some day."""
    try:
        await http.repeat(HttpRequest("DELETE", url, "delete a batch file"))
    except BatchApiError:
        return
