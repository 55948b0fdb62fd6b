"""The image out of a request's body, never reading more than the limit."""

import asyncio

from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from anomaly_seg.serving.upload import MEGABYTE, Limits, UploadError, too_large

IMAGE_TYPES = ("image/png", "image/jpeg", "image/bmp", "image/tiff", "application/octet-stream")
FORM = "multipart/form-data"
FORM_ROOM = MEGABYTE // 16
"""Bytes of a form that are not the file: boundaries, headers, names."""


def declared_size(request: Request, limits: Limits) -> int:
    """Bytes the client says it will send; the largest allowed if it does not say.

    Raises:
        UploadError: 413: more than the limit.
    """
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        return limits.max_bytes
    if int(length) > limits.max_bytes + FORM_ROOM:
        raise too_large(limits)
    return min(int(length), limits.max_bytes)


async def read_image(request: Request, limits: Limits, seconds: float) -> bytes:
    """The encoded image: the form's file `image`, or the whole body.

    Raises:
        UploadError: 400: no valid form, or the client left. 408: too slow. 413: too large. 415: another type. 422: the
            form lacks it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM and kind not in IMAGE_TYPES:
        raise UploadError(
            415, f"Send the image as {FORM}, or as the body with one of the types {', '.join(IMAGE_TYPES)}."
        )
    limited = Request(request.scope, _counting(request, limits))
    try:
        async with asyncio.timeout(seconds):
            return await (_form_file(limited) if kind == FORM else limited.body())
    except TimeoutError:
        raise UploadError(408, f"The image did not arrive within {seconds:g} seconds; send it again.") from None
    except ClientDisconnect:
        raise UploadError(400, "The connection closed before the whole image had come; send it again.") from None


def _counting(request: Request, limits: Limits) -> Receive:
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > limits.max_bytes + FORM_ROOM:
            raise too_large(limits)
        return message

    return receive


async def _form_file(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            file = form.get("image")
            if isinstance(file, UploadFile):
                return await file.read()
    except (HTTPException, MultiPartException, FormParserError) as error:  # Starlette lets the last one through
        raise UploadError(400, f"The form does not parse: {getattr(error, 'detail', error)}") from error
    raise UploadError(422, "The form has no file named 'image'; send one.")
