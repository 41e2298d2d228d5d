"""Gemini's files as the mock provider has them: the resumable protocol of uploads, descriptions, downloads.

Sources: https://ai.google.dev/api/files, https://ai.google.dev/gemini-api/docs/files#rest for the upload.
"""

from collections.abc import Mapping

from llmblast.mocking.batch_calls import BatchCall, Reading, Route, content_reply, json_reply, moment, page_of
from llmblast.mocking.cloud_calls import GEMINI
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.replies import ScriptedReply
from llmblast.mocking.stored_files import StoredFile

VERSION = "/v1(?:beta|alpha)"
"""Paths of Google's clients that begin with `/v1` are looked up as `/v1beta`."""
UPLOADED, GENERATED = "UPLOADED", "GENERATED"
_KEPT_S = 48 * 3600
_UPLOADS = "/upload/v1beta/uploads"


def start_upload(call: BatchCall) -> ScriptedReply:
    """`POST /upload/v1beta/files`: say where the content goes."""
    if call.headers.get("X-Goog-Upload-Command", "").strip() != "start":
        raise BadRequestError("X-Goog-Upload-Command: the mock provider has the resumable protocol only: send 'start'.")
    asked = call.json().get("file") or {}
    name = str(asked.get("name") or call.store.make_id("files/"))
    title = asked.get("displayName") or asked.get("display_name") or ""
    if name in call.store.files:
        raise BadRequestError(f"Requested entity already exists: {name}", status=409)
    identity = call.store.make_id("")
    call.store.uploads[identity] = call.store.new_file(str(title), UPLOADED, name)
    url = f"http://{call.headers.get('Host', 'localhost')}{_UPLOADS}/{identity}"
    return json_reply({}, headers={"X-Goog-Upload-Status": "active", "X-Goog-Upload-URL": url})


def continue_upload(call: BatchCall) -> ScriptedReply:
    """`POST` to that place: take content, and keep the file with the last of it."""
    file = call.store.uploads.get(call.names[0])
    if file is None:
        raise BadRequestError("Upload has already been terminated.", status=404)
    commands = {command.strip() for command in call.headers.get("X-Goog-Upload-Command", "").split(",")}
    if "query" in commands:
        return _status("active", file)
    if "cancel" in commands:
        del call.store.uploads[call.names[0]]
        return _status("cancelled", file)
    if "upload" in commands:
        if call.headers.get("X-Goog-Upload-Offset") != str(file.size_bytes):
            raise BadRequestError(f"X-Goog-Upload-Offset: {file.size_bytes} bytes have come so far.")
        for block in call.upload.blocks() if call.upload else ():
            file.append(block)
    if "finalize" not in commands:
        return _status("active", file)
    del call.store.uploads[call.names[0]]
    call.store.keep(file)
    return json_reply({"file": _described(call, file)}, headers={"X-Goog-Upload-Status": "final"})


def show_all(call: BatchCall) -> ScriptedReply:
    """`GET /v1beta/files`."""
    files = [file for file in call.store.files.values() if file.identity.startswith("files/")]
    page, has_more = page_of(files[::-1], call.number("pageSize", 10, 1, 100), call.query.get("pageToken"))
    more: Mapping[str, object] = {"nextPageToken": page[-1].identity} if has_more else {}
    return json_reply({"files": [_described(call, file) for file in page], **more})


def show(call: BatchCall) -> ScriptedReply:
    """`GET /v1beta/files/{id}`."""
    return json_reply(_described(call, call.file()))


def delete(call: BatchCall) -> ScriptedReply:
    """`DELETE /v1beta/files/{id}`."""
    del call.store.files[call.file().identity]
    return json_reply({})


def download(call: BatchCall) -> ScriptedReply:
    """`GET /download/v1beta/files/{id}:download`; also without the first part."""
    file = call.file()
    if file.purpose == UPLOADED:
        raise BadRequestError(f"File {file.identity} was uploaded: only generated files can be downloaded.")
    return content_reply(file.blocks(), "application/jsonl")


def _status(state: str, file: StoredFile) -> ScriptedReply:
    headers = {"X-Goog-Upload-Status": state, "X-Goog-Upload-Size-Received": str(file.size_bytes)}
    return json_reply({}, headers=headers)


def _described(call: BatchCall, file: StoredFile) -> dict[str, object]:
    uri = f"http://{call.headers.get('Host', 'localhost')}/v1beta/{file.identity}"
    is_generated = file.purpose != UPLOADED
    return {
        "name": file.identity,
        "displayName": file.name,
        "mimeType": "application/jsonl",
        "sizeBytes": str(file.size_bytes),
        "createTime": moment(file.created_s),
        "updateTime": moment(file.created_s),
        "expirationTime": moment(file.created_s + _KEPT_S),
        "uri": uri,
        "state": "ACTIVE",
        "source": GENERATED if is_generated else UPLOADED,
        **({"downloadUri": f"{uri}:download?alt=media"} if is_generated else {}),
    }


ROUTES = (
    Route(GEMINI, "POST", r"/upload/v1\w*/files", start_upload),
    Route(GEMINI, "POST", f"{_UPLOADS}/([^/]+)", continue_upload, Reading.CONTENT, is_open=True),
    Route(GEMINI, "PUT", f"{_UPLOADS}/([^/]+)", continue_upload, Reading.CONTENT, is_open=True),
    Route(GEMINI, "GET", f"{VERSION}/files", show_all),
    Route(GEMINI, "GET", f"{VERSION}/(files/[^/:]+)", show),
    Route(GEMINI, "DELETE", f"{VERSION}/(files/[^/:]+)", delete),
    Route(GEMINI, "GET", r"(?:/download)?/v1\w*/(files/[^/:]+):download", download),
)
