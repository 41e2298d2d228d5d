"""OpenAI's files as the mock provider has them, those of Azure, and those of Mistral, whose paths are the same.

Sources: https://platform.openai.com/docs/api-reference/files, https://docs.mistral.ai/api/endpoint/files. A description
has the members of both. Azure says `pending` of a new file until it can be used:
https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch
"""

from collections.abc import Callable, Iterator, Sequence

from llmblast.mocking.batch_calls import BatchCall, Reading, Route, content_reply, json_reply, page_of
from llmblast.mocking.cloud_calls import AZURE
from llmblast.mocking.error_replies import BadRequestError, missing
from llmblast.mocking.replies import ScriptedReply
from llmblast.mocking.stored_files import StoredFile

OPENAI = "openai"
MAX_BATCH_FILE_BYTES = 200 * 1024 * 1024
PREFIXES = {OPENAI: "(?:/v1)?", AZURE: "/openai(?:/v1)?"}
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals", "ocr")
_KNOWN = (*_PURPOSES, "batch_output")
_MAX_PAGE = 10_000
_AZURE_PENDING_SHARE = 0.1
"""Share of `batch_delay` until Azure has looked at a file."""


def upload(call: BatchCall) -> ScriptedReply:
    """`POST /files`: store a file."""
    file = call.upload
    if file is None:
        raise missing("file")
    purpose = call.fields.get("purpose")
    if not purpose:
        raise missing("purpose")
    if purpose not in _PURPOSES:
        raise BadRequestError(f"'{purpose}' is not one of {list(_PURPOSES)} - 'purpose'", "purpose", "invalid_value")
    if purpose == "batch" and file.size_bytes > MAX_BATCH_FILE_BYTES:
        message = f"File is too large: {file.size_bytes} bytes; {MAX_BATCH_FILE_BYTES} are allowed for a batch."
        raise BadRequestError(message, "file", "file_too_large", status=413)
    file.purpose = purpose
    call.store.keep(file)
    return json_reply(_described(call, file))


def upload_to_azure(call: BatchCall) -> ScriptedReply:
    """Do the same; the file can be used a little later."""
    if call.upload is not None:
        call.upload.ready_s += _AZURE_PENDING_SHARE * call.store.delay_s
    reply = upload(call)
    reply.status = 201
    return reply


def show_all(call: BatchCall) -> ScriptedReply:
    """`GET /files`: list the files, the newest first unless asked otherwise; Mistral's pages have numbers."""
    purpose = call.query.get("purpose")
    files = [file for file in call.store.files.values() if file.purpose in (_KNOWN if purpose is None else (purpose,))]
    if call.query.get("order") != "asc":
        files.reverse()
    page, has_more = _page(call, files)
    return json_reply(
        {
            "object": "list",
            "data": [_described(call, file) for file in page],
            "has_more": has_more,
            "first_id": page[0].identity if page else None,
            "last_id": page[-1].identity if page else None,
            "total": len(files),
        }
    )


def show(call: BatchCall) -> ScriptedReply:
    """`GET /files/{id}`."""
    return json_reply(_described(call, call.file()))


def delete(call: BatchCall) -> ScriptedReply:
    """`DELETE /files/{id}`; a batch of it goes on."""
    identity = call.file().identity
    del call.store.files[identity]
    return json_reply({"id": identity, "object": "file", "deleted": True})


def download(call: BatchCall) -> ScriptedReply:
    """`GET /files/{id}/content`."""
    return content_reply(call.file().blocks())


def _page(call: BatchCall, files: list[StoredFile]) -> tuple[Sequence[StoredFile], bool]:
    if "page" in call.query or "page_size" in call.query:
        page = call.numbered_page(files, 100)
        return page, bool(page) and page[-1] is not files[-1]
    return page_of(files, call.number("limit", _MAX_PAGE, 1, _MAX_PAGE), call.query.get("after"))


def _described(call: BatchCall, file: StoredFile) -> dict[str, object]:
    return {
        "object": "file",
        "id": file.identity,
        "purpose": file.purpose,
        "filename": file.name,
        "bytes": file.size_bytes,
        "created_at": int(file.created_s),
        "expires_at": None,
        "status": "processed" if call.store.now() >= file.ready_s else "pending",
        "status_details": None,
        "sample_type": "batch_request" if file.purpose == "batch" else "batch_result",
        "source": "upload" if file.purpose == "batch" else "mistral",
        "mimetype": "application/jsonl",
        "signature": None,
    }


def _routes(api: str, prefix: str, store: Callable[[BatchCall], ScriptedReply]) -> Iterator[Route]:
    yield Route(api, "POST", f"{prefix}/files", store, Reading.FORM)
    yield Route(api, "GET", f"{prefix}/files", show_all)
    yield Route(api, "GET", f"{prefix}/files/([^/]+)", show)
    yield Route(api, "DELETE", f"{prefix}/files/([^/]+)", delete)
    yield Route(api, "GET", f"{prefix}/files/([^/]+)/content", download)


ROUTES = (*_routes(OPENAI, PREFIXES[OPENAI], upload), *_routes(AZURE, PREFIXES[AZURE], upload_to_azure))
